"""The app as a tool for language models (MCP), behind the same check of files as all other ways in."""

from typing import Any

from gradio.mcp import GradioMCPServer

from dsd.ui import gate, uploads


class Tools(GradioMCPServer):
    """Gradio's MCP server, whose calls name only files that `gate.admit` allows."""

    def convert_strings_to_filedata(self, value: dict[str, Any], *args: Any) -> Any:
        """Check a call's arguments: gradio's client, which sends them on, would upload any file from here."""
        admitted = gate.admit(value, self.blocks.folders())
        inline = [text for text in admitted.values() if isinstance(text, str) and text.startswith("data:")]
        if inline and not uploads.make_room(sum(map(len, inline))):
            raise ValueError(uploads.FULL)
        return super().convert_strings_to_filedata(admitted, *args)
