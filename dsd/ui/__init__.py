"""The app's page: one file per tab, and the only place in the library that imports gradio."""
