import subprocess
import sys

import pytest

import talos.identity


def test_every_public_name_is_there() -> None:
    for name in talos.identity.__all__:
        assert getattr(talos.identity, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = talos.identity.nothing


@pytest.mark.parametrize("module", ["keys", "peer_id", "peer_record", "envelope", "certificate"])
def test_import_loads_no_file_access_no_trio_and_no_heavy_library(module: str) -> None:
    program = (
        f"import sys; import talos.identity.{module}\n"
        "heavy = {'trio', 'cryptography', 'talos.identity.keystore', 'google.protobuf.descriptor', 'OpenSSL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
