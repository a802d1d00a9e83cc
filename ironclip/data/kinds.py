"""The kind of a file, from its name and its first bytes, and the entries of a folder that are never a user's images."""

from importlib.util import find_spec

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
HEIF = (".heic", ".heif", ".hif")
HEIF_HINT = 'to read them: pip install "ironclip[heif]"'
HEAD = 512

OTHERS = {
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"), "archive"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg"), "video"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "raw photo"),
    **dict.fromkeys((".svg", ".eps", ".ai", ".pdf", ".psd", ".xcf"), "drawing"),
    **dict.fromkeys((".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".htm", ".py"), "other file"),
    **dict.fromkeys((".log", ".npy", ".npz", ".pt", ".pth", ".pkl", ".mat", ".ini", ".lock", ".ipynb", ".rst"), "other file"),
    ".jxl": "JPEG XL image",
}

_SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler", "lost+found"),
    *("system volume information", "__macosx", "network trash folder", "temporary items", "__pycache__"),
    *("thumbnails", "thumbs", "_thumbs", "_thumbnails"),
}
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}

_MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"WEBP", 8, "WebP"),
    (b"\0\0\0\x0cjP  ", 0, "JPEG 2000"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftypavis", 4, "AVIF"),
    *((b"ftyp" + brand, 4, "HEIC") for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
    (b"\0\0\0\x0cJXL ", 0, "JPEG XL"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"PK\x03\x04", 0, "archive"),
    (b"\x1f\x8b", 0, "archive"),
    (b"%PDF", 0, "PDF"),
    (b"ftyp", 4, "video"),
)
_PICTURES = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "JPEG 2000", "AVIF")


def has_heif() -> bool:
    """Whether images of Apple's phones can be read here."""
    return find_spec("pillow_heif") is not None


def is_system_folder(name: str) -> bool:
    """Whether a folder is made by a desktop, a file server or a tool."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """The same for files."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FILES


def magic(head: bytes) -> str | None:
    """The format according to the first bytes of a file; None if unknown."""
    return next((name for mark, start, name in _MAGIC if head[start : start + len(mark)] == mark), None)


def is_picture(head: bytes) -> bool:
    """Whether first bytes are those of an image that can be read here."""
    found = magic(head)
    return found in _PICTURES or (found == "HEIC" and has_heif())


def what_it_is(head: bytes) -> str | None:
    """The kind of a file that is no image, with a remedy; None where its first bytes say nothing."""
    if not head:
        return "an empty file (0 bytes); copy or download it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself; fetch it with `git lfs pull`"
    if b"/annex/objects/" in head:
        return "a git-annex pointer, not the image itself; fetch it with `git annex get`"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, not an image; the download has failed, fetch it again"
    if text.startswith((b"<?xml", b"<svg")):
        return "an XML or SVG file; save it as PNG"
    found = magic(head)
    if found == "HEIC":
        return f"a HEIC image, whatever its name says; {HEIF_HINT}"
    if found in ("JPEG XL", "PDF", "archive", "video"):
        return f"{'an' if found == 'archive' else 'a'} {found}{' image' if found == 'JPEG XL' else ''}; save it as PNG or JPEG"
    if found is None and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        return f"not an image but text that starts {head[:30].decode().strip()!r}; fetch it again"
    return None


def kind_of(name: str) -> str | None:
    """`picture`, or the kind of a file that is none, from its name; None where the first bytes must say it."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix in EXTENSIONS:
        return "picture"
    if suffix in HEIF:
        return "picture" if has_heif() else "HEIC image"
    return OTHERS.get(suffix)
