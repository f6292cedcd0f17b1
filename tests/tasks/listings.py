"""Short forms of listing, for tests."""

from __future__ import annotations

from pathlib import Path

from tasks.listing import Listing
from tasks.sources import SourceSettings, list_source


def said(listing: Listing, *words: str) -> bool:
    return any(all(word in note for word in words) for note in listing.notes)


def labels(listing: Listing) -> dict[str, str | None]:
    return dict(zip(listing.path, listing.label, strict=True))


def listed(path: Path, **options: object) -> Listing:
    return list_source(str(path), settings=SourceSettings(**options))
