"""Catalogues in: files as a search team has them become DOCUMENTS, and are kept up to date."""

from serm.catalogue.documents import Taken, import_documents, update_documents
from serm.catalogue.fields import Asked, Field, Fields
from serm.catalogue.reading import look

__all__ = ["Asked", "Field", "Fields", "Taken", "import_documents", "look", "update_documents"]
