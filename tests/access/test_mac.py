"""The quick digest is the standard's."""

import hmac

import pytest

from medserve.access.mac import Mac


@pytest.mark.parametrize("length", [0, 1, 32, 63, 64, 65, 200])
def test_it_is_hmac_sha_256_for_keys_and_data_of_every_length(length):
    """Byte for byte what the standard library gives, twice from one object."""
    key, mac = bytes(range(length)), Mac(bytes(range(length)))
    for data in (b"", b"case", bytes(1000)):
        assert mac.of(data) == mac.of(data) == hmac.digest(key, data, "sha256")
