"""Many people, one model: an OpenAI-compatible API over a batch that requests join and leave while it runs."""
