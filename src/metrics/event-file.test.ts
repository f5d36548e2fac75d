import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { crc32c } from './crc32c.ts';
import { fileHeader, scalarRecord } from './event-file.ts';

interface Golden {
  /** Seconds. */
  readonly begun: number;
  readonly events: readonly {
    readonly time: number;
    readonly step: number;
    readonly values: Readonly<Record<string, number | string>>;
  }[];
  readonly base64: string;
}

const SPECIAL: Readonly<Record<string, number>> = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY };

test('the checksum is that of RFC 3720', () => {
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
});

test("the bytes are those of TensorBoard's own writer", () => {
  const text = readFileSync(new URL('../../test/parity/golden/events.json', import.meta.url), 'utf8');
  const { begun, events, base64 } = JSON.parse(text) as Golden;
  const records = events.map(({ time, step, values }) =>
    scalarRecord({
      time: new Date(time * 1000),
      step,
      values: Object.fromEntries(
        Object.entries(values).map(([name, value]) => [
          name,
          typeof value === 'number' ? value : (SPECIAL[value] ?? 0),
        ]),
      ),
    }),
  );
  const bytes = Buffer.concat([fileHeader(new Date(begun * 1000)), ...records]);
  expect(bytes.toString('base64')).toBe(base64);
});
