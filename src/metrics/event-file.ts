/**
 * The bytes of a TensorBoard event file: `Event` messages (tensorboard/compat/proto/event.proto, summary.proto) in TFRecord framing
 * (tensorflow/core/lib/io/record_writer.h). Knows nothing of jobs.
 */
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { crc32c } from './crc32c.ts';

/** Scalars of one step. */
export interface ScalarEvent {
  /** When they were measured. */
  readonly time: Date;
  readonly step: number;
  /** Values by tag, such as `train/loss`; kept as float32. */
  readonly values: Readonly<Record<string, number>>;
}

/** A protobuf tag: the field's number and its wire type (0 varint, 1 eight bytes, 2 with a length, 5 four bytes). */
const tag = (field: number, wireType: 0 | 1 | 2 | 5): number => (field << 3) | wireType;

/** Field numbers. */
const EVENT = { wallTime: tag(1, 1), step: tag(2, 0), fileVersion: tag(3, 2), summary: tag(5, 2) } as const;
const SUMMARY_VALUE = tag(1, 2);
const VALUE = { tag: tag(1, 2), simpleValue: tag(2, 5) } as const;

/** What readers expect of the first event. */
const FILE_VERSION = 'brain.Event:2';

/** Added to a checksum that is rotated by 15 bits (record_writer.h, hash/crc32c.h). */
const MASK_DELTA = 0xa282ead8;

/** A checksum as a record holds it: the checksum of bytes that hold checksums would be weak. */
function maskedChecksum(bytes: Uint8Array): number {
  const value = crc32c(bytes);
  return (((value >>> 15) | (value << 17)) + MASK_DELTA) >>> 0;
}

/** Length (uint64), its checksum, the bytes, their checksum; all little-endian. */
function record(payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(16 + payload.length);
  bytes.writeBigUInt64LE(BigInt(payload.length), 0);
  bytes.writeUInt32LE(maskedChecksum(bytes.subarray(0, 8)), 8);
  bytes.set(payload, 12);
  bytes.writeUInt32LE(maskedChecksum(payload), 12 + payload.length);
  return bytes;
}

const startEvent = (time: Date): BinaryWriter =>
  new BinaryWriter().uint32(EVENT.wallTime).double(time.getTime() / 1000);

/** What a file begins with. @param time When it was begun. */
export function fileHeader(time: Date): Buffer {
  return record(startEvent(time).uint32(EVENT.fileVersion).string(FILE_VERSION).finish());
}

/** One record. */
export function scalarRecord({ time, step, values }: ScalarEvent): Buffer {
  const writer = startEvent(time);
  // As protobuf's own writers: a field that is 0 is left out, but for those of a oneof.
  if (step !== 0) writer.uint32(EVENT.step).int64(step);
  writer.uint32(EVENT.summary).fork();
  for (const [name, value] of Object.entries(values)) {
    writer.uint32(SUMMARY_VALUE).fork();
    writer.uint32(VALUE.tag).string(name).uint32(VALUE.simpleValue);
    // The writer refuses what float32 cannot hold; as a float32 it is an infinity.
    writer.float(Math.fround(value)).join();
  }
  return record(writer.join().finish());
}
