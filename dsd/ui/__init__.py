"""The app's page: one subpackage per tab, and the only package that imports gradio."""
