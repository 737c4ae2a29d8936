"""`/v1/responses`: conversations in OpenAI's newer words; nothing is stored."""
