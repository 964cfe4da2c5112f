"""Plays the journal of powerloss.c: the files that a loss of power at some moment could have left."""

import struct

RECORD = struct.Struct("=IIQQ")
SECTOR = 512


def load(path):
    """All records, as (kind, file, offset, length, data)."""
    blob = memoryview(path.read_bytes())
    records, at = [], 0
    while at + RECORD.size <= len(blob):
        kind, file, offset, length = RECORD.unpack_from(blob, at)
        at += RECORD.size
        data = None
        if kind == ord("w"):
            data = blob[at:at + length]
            at += length
            if len(data) < length:
                break  # the program was killed in the middle of this
        records.append((chr(kind), file, offset, length, data))
    return records


def last_sync(records, moment):
    """Everything before this record is on the disk."""
    begun, last = None, 0
    for i, (kind, file, *_rest) in enumerate(records[:moment]):
        if file == 0 and kind == "s":
            begun = i
        elif file == 0 and kind == "e" and begun is not None:
            last = begun
    return last


def apply(image, record, rng=None):
    """Does to the image what the record says; with rng, what of it a disk may have done."""
    kind, _file, offset, length, data = record
    if kind == "t":
        del image[offset:]
        image.extend(bytes(offset - len(image)))
    elif kind == "w":
        if rng:  # some of its sectors, each of which is atomic
            cuts = [0, *range(SECTOR - offset % SECTOR, length, SECTOR), length]
            first, last = sorted(rng.choices(range(len(cuts)), k=2))
            offset, data = offset + cuts[first], data[cuts[first]:cuts[last]]
            if not data:
                return
        image.extend(bytes(max(0, offset + len(data) - len(image))))
        image[offset:offset + len(data)] = data
    elif kind == "p":
        end = min(offset + length, len(image))
        if offset < end:
            image[offset:end] = bytes(end - offset)


def image_at(start, records, moment, rng):
    """The image if power is lost before the record `moment`: of what no sync covered, anything."""
    image = bytearray(start)
    synced = last_sync(records, moment)
    for i, record in enumerate(records[:moment]):
        if record[1] != 0:
            continue
        if i < synced:
            apply(image, record)
        elif rng.random() < 0.5:
            apply(image, record, rng if rng.random() < 0.3 else None)
    return image


def marks_at(records, moment):
    """What the program had said of itself."""
    marks = bytearray()
    for record in records[:moment]:
        if record[1] == 1:
            apply(marks, record)
    return marks
