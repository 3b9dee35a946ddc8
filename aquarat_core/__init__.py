"""All that runs on a GPU host: data, tokenizer, model, training, RL, evaluation, artifacts. Never imports dagster."""
