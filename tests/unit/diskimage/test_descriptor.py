"""Descriptors: what is believed, what is refused, what is written."""

import contextlib
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.diskimage.beneath import resolve
from offhost.diskimage.descriptor import LIMIT_BYTES, flat_descriptor, flat_name, is_descriptor, parse_descriptor
from offhost.diskimage.folder import parse_vmx
from offhost.errors import DamagedImage, DiskImageError, UnsupportedImage

FLAT = b"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=ab12
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 4096 VMFS "web-flat.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.uuid = "60 00 C2 93 7c 9b 9f 39-ac a5 00 11 22 33 44 55"
"""


def test_a_descriptor_is_read() -> None:
    descriptor = parse_descriptor(FLAT, "web.vmdk")
    assert descriptor.size_bytes == 4096 * 512
    assert descriptor.cid == "0000ab12"
    assert descriptor.parent_cid is None
    assert descriptor.extents[0].file == "web-flat.vmdk"
    assert descriptor.uuid == "6000c2937c9b9f39aca5001122334455"


def test_windows_line_ends_and_padding_change_nothing() -> None:
    padded = FLAT.replace(b"\n", b"\r\n") + bytes(700)
    assert parse_descriptor(padded, "web.vmdk") == parse_descriptor(FLAT, "web.vmdk")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"# Disk DescriptorFile", b"# Disque", DamagedImage),
        (b"CID=ab12\n", b"", DamagedImage),
        (b"CID=ab12", b"CID=ab12\nCID=ab13", DamagedImage),
        (b"CID=ab12", b"CID=zz", DamagedImage),
        (b"RW 4096", b"RW 0", DamagedImage),
        (b"RW 4096", b"RW 999999999999999999", DamagedImage),
        (b"RW 4096", b"RW " + b"9" * 5000, DamagedImage),
        (b'VMFS "web-flat.vmdk"', b"VMFS", DamagedImage),
        (b"RW 4096 VMFS", b"RW 4096 VMFSRDM", UnsupportedImage),
        (b"RW 4096 VMFS", b"NOACCESS 4096 VMFS", UnsupportedImage),
        (b"parentCID=ffffffff", b"parentCID=12345678", DamagedImage),
        (b"parentCID=ffffffff", b'parentCID=12345678\nparentFileNameHint="base.vmdk"', UnsupportedImage),
        (b"parentCID=ffffffff", b'parentCID=ffffffff\nparentFileNameHint="base.vmdk"', DamagedImage),
        (b"RW 4096 VMFS", b"RW 4096 VMFSSPARSE", DamagedImage),
        (b"ddb.adapterType", b'ddb.iofilters = "vmwarevmcrypt"\nddb.adapterType', UnsupportedImage),
        (b"version=1", b"what is this", DamagedImage),
        (b"# The Disk", b'RW 4096 VMFS "x"\n' * 1025 + b"# The Disk", DamagedImage),
    ],
)
def test_a_descriptor_that_is_not_whole_or_not_a_file_is_refused(
    old: bytes, new: bytes, error: type[DiskImageError]
) -> None:
    with pytest.raises(error):
        parse_descriptor(FLAT.replace(old, new), "web.vmdk")


@given(st.integers(0, len(FLAT) - 1), st.integers(0, 255))
def test_any_flipped_byte_is_a_descriptor_or_an_error(at: int, value: int) -> None:
    changed = FLAT[:at] + bytes([value]) + FLAT[at + 1 :]
    with contextlib.suppress(DiskImageError):
        parse_descriptor(changed, "web.vmdk")


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_descriptor_or_an_error(tail: bytes) -> None:
    with contextlib.suppress(DiskImageError):
        parse_descriptor(b"# Disk DescriptorFile\n" + tail, "web.vmdk")


def test_a_descriptor_beyond_any_real_size_is_refused() -> None:
    with pytest.raises(DamagedImage):
        parse_descriptor(FLAT + b"#" * LIMIT_BYTES, "web.vmdk")


@pytest.mark.parametrize(
    "reference", ["/etc/shadow", "../other/disk-flat.vmdk", "a/../../x", "", "a\nb", "a\0b", "a\x9bb", "a\udcffb"]
)
def test_a_name_outside_of_the_root_is_refused(reference: str) -> None:
    with pytest.raises(DamagedImage):
        resolve(PurePosixPath("web.vmdk"), reference)


def test_a_name_beneath_the_root_is_found_from_where_it_was_named() -> None:
    assert resolve(PurePosixPath("web/web.vmdk"), "../base/base.vmdk") == PurePosixPath("base/base.vmdk")
    assert resolve(PurePosixPath("web/web.vmdk"), "./web-flat.vmdk") == PurePosixPath("web/web-flat.vmdk")


@given(st.text(alphabet="./a", max_size=20))
def test_no_reference_ever_leaves_the_root(reference: str) -> None:
    try:
        found = resolve(PurePosixPath("folder/web.vmdk"), reference)
    except DamagedImage:
        return
    assert not found.is_absolute()
    assert ".." not in found.parts


@given(st.integers(1, 2**36), st.sampled_from(["lsilogic", "buslogic", "ide"]), st.booleans())
def test_a_descriptor_that_is_written_says_what_it_was_given(sectors: int, adapter: str, thin: bool) -> None:
    text = flat_descriptor("web.vmdk", sectors * 512, adapter=adapter, hardware_version=19, thin=thin)
    assert is_descriptor(text.encode())
    descriptor = parse_descriptor(text.encode(), "web.vmdk")
    assert descriptor.size_bytes == sectors * 512
    assert descriptor.extents[0].file == flat_name("web.vmdk") == "web-flat.vmdk"
    assert descriptor.database["adaptertype"] == adapter
    assert descriptor.database["virtualhwversion"] == "19"
    assert ("thinprovisioned" in descriptor.database) == thin


@pytest.mark.parametrize("name", ["web", "../web.vmdk", 'we"b.vmdk', "we\nb.vmdk", ".vmdk", ""])
def test_a_name_that_would_break_out_of_the_descriptor_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        flat_descriptor(name, 512)


def test_vmx_settings_are_read_and_other_lines_left_out() -> None:
    settings = parse_vmx(b'.encoding = "UTF-8"\nscsi0:0.fileName = "web.vmdk"\nnonsense\n# x = "y"\nannotation = ""\n')
    assert settings == {".encoding": "UTF-8", "scsi0:0.filename": "web.vmdk", "annotation": ""}
