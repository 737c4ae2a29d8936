"""The process: uvicorn, its workers, the start, draining and graceful shutdown.

uvicorn documents no extension points for what follows. So these modules use names that an upgrade
may change; tests/server/test_uvicorn.py checks that they exist, and the tests named here that they
still have their effect.

- `connection.py`: callbacks and state of `HttpToolsProtocol`. uvicorn has no deadlines for slow
  clients and no bound on a request's head (test_connection.py).
- `connection.py`: `send`, `chunked_encoding` and `expected_content_length` of
  `RequestResponseCycle`, since uvicorn sends chunks to clients of HTTP/1.0; `response_started`, to
  know whether an answer can still be written (test_connection.py).
- `graceful.py`: `handle_exit`, `shutdown`, `servers` and `server_state` of `Server`. uvicorn closes
  the port at the first signal, and does not wait for streams (test_process.py).
- `supervisor.py`, `worker.py`: methods of `Multiprocess` and its `Process`. uvicorn ignores signals
  while it replaces workers, and does not wait for their models (test_workers.py).
"""
