from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.chunking.compress import Codec, Compression, decompress
from offhost.errors import ChunkCorrupt
from support.page_rule import random_bytes

PACKING = [Compression(Codec.LZ4), Compression(Codec.ZSTD, 1), Compression(Codec.ZSTD, 3), Compression(Codec.ZSTD, 19)]
TEXT = b"compressible text, " * 3000


def test_the_codec_bytes_are_those_of_the_format() -> None:
    assert [(codec.name, codec.value) for codec in Codec] == [("RAW", 0), ("LZ4", 1), ("ZSTD", 2)]


@settings(max_examples=200)
@given(
    plain=st.one_of(st.binary(max_size=2000), st.binary(max_size=40).map(lambda part: part * 500)),
    compression=st.sampled_from([Compression(Codec.RAW), *PACKING]),
)
def test_what_was_compressed_comes_back(plain: bytes, compression: Compression) -> None:
    codec, data = compression.compress(memoryview(plain))
    assert bytes(decompress(codec, data, len(plain))) == plain
    assert len(data) <= len(plain)


@pytest.mark.parametrize("compression", PACKING)
def test_a_sixteenth_saved_is_worth_it_and_less_is_not(compression: Compression) -> None:
    plain = random_bytes("incompressible", 64 << 10)
    codec, data = compression.compress(memoryview(plain))
    assert codec is Codec.RAW
    assert isinstance(data, memoryview)
    little, much = plain[: 63 << 10] + bytes(1 << 10), plain[: 59 << 10] + bytes(5 << 10)
    assert compression.compress(memoryview(little))[0] is Codec.RAW
    assert compression.compress(memoryview(much))[0] is compression.codec


def test_none_stores_raw() -> None:
    assert Compression(Codec.RAW).compress(memoryview(TEXT)) == (Codec.RAW, TEXT)


@pytest.mark.parametrize("compression", [Compression(Codec.RAW), *PACKING])
@pytest.mark.parametrize("wrong_by", [-1, 1, 100_000])
def test_another_length_than_recorded_is_damage(compression: Compression, wrong_by: int) -> None:
    codec, data = compression.compress(memoryview(TEXT))
    with pytest.raises(ChunkCorrupt):
        decompress(codec, data, len(TEXT) + wrong_by)


@pytest.mark.parametrize("compression", PACKING)
def test_cut_short_is_damage(compression: Compression) -> None:
    codec, data = compression.compress(memoryview(TEXT))
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ChunkCorrupt):
            decompress(codec, data[:length], len(TEXT))


@pytest.mark.parametrize("compression", PACKING)
def test_bytes_after_the_end_are_damage(compression: Compression) -> None:
    codec, data = compression.compress(memoryview(TEXT))
    with pytest.raises(ChunkCorrupt):
        decompress(codec, bytes(data) + b"more", len(TEXT))


@settings(max_examples=300)
@given(data=st.binary(max_size=300), codec=st.integers(0, 4), plain_bytes=st.integers(0, 100_000))
def test_garbage_is_never_more_than_an_error(data: bytes, codec: int, plain_bytes: int) -> None:
    with suppress(ChunkCorrupt):
        assert len(decompress(codec, data, plain_bytes)) == plain_bytes


def test_a_codec_this_version_does_not_know_is_damage() -> None:
    with pytest.raises(ChunkCorrupt, match="7 is not a valid Codec"):
        decompress(7, b"", 0)


@pytest.mark.parametrize(
    ("states_its_size", "reason"), [(True, "states another size"), (False, "did not decompress full frame")]
)
def test_a_frame_that_would_grow_without_bound_is_stopped(states_its_size: bool, reason: str) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=states_its_size).compress(bytes(64 << 20))
    with pytest.raises(ChunkCorrupt, match=reason):
        decompress(Codec.ZSTD, bomb, 64 << 10)


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = writer.compress(TEXT) + writer.flush()
    with pytest.raises(ChunkCorrupt):
        decompress(Codec.ZSTD, frame, len(TEXT))


def test_many_threads_share_one_compression() -> None:
    plains = [random_bytes(str(number), 500) * 100 for number in range(200)]
    compression = Compression(Codec.ZSTD, 3)

    def there_and_back(plain: bytes) -> bytes:
        codec, data = compression.compress(memoryview(plain))
        return bytes(decompress(codec, data, len(plain)))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(there_and_back, plains)) == plains
