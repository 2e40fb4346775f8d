"""A server that speaks OpenAI's protocol in every style and dialect that real ones have."""
