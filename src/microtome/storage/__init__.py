"""Files that are whole or absent, claims on them, digests of what decided them, progress. Knows no format.

A file is written beside its place, flushed to the disk and renamed over it, so that a process killed at any
moment leaves either the old file, the new one, or none. A claim (``<output>.claim``) keeps two processes from
making the same output. A recipe is the flat set of values that decide an output; its digest travels with it.
"""

from microtome.storage.claims import CLAIM_EXPIRY_S, CLAIM_HEARTBEAT_S, Claim
from microtome.storage.files import (
    LateErrorFile,
    flush_files,
    flush_to_disk,
    hash_file,
    now_utc,
    remove_leftovers,
    remove_leftovers_in,
    safe_name,
    write_errors_explained,
    write_json,
    write_text,
    write_unflushed,
    written_whole,
)
from microtome.storage.progress import LineProgress, Progress, QuietProgress, open_progress
from microtome.storage.recipe import digest, hash_array, recipe_changes, recipe_text

__all__ = [
    "CLAIM_EXPIRY_S",
    "CLAIM_HEARTBEAT_S",
    "Claim",
    "LateErrorFile",
    "LineProgress",
    "Progress",
    "QuietProgress",
    "digest",
    "flush_files",
    "flush_to_disk",
    "hash_array",
    "hash_file",
    "now_utc",
    "open_progress",
    "recipe_changes",
    "recipe_text",
    "remove_leftovers",
    "remove_leftovers_in",
    "safe_name",
    "write_errors_explained",
    "write_json",
    "write_text",
    "write_unflushed",
    "written_whole",
]
