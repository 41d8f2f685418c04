"""What goes wrong in an export."""

from kdnas_env.errors import KDNASError


class ExportError(KDNASError):
    """A model cannot be exported, the export is not what the model is, or it cannot be written or pushed."""
