"""The web server of `aquarat serve`: an API like OpenAI's, and pages to chat with models and look into them."""
