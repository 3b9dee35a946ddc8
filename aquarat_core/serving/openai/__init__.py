"""The API that clients of OpenAI's speak: models, chat completions and completions, whole or streamed."""
