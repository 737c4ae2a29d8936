"""BATCH_BACKEND=celery: lines of batches, handed to Celery workers in chunks over Redis."""
