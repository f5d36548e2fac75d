/** The page that the library shares with the harness (`struct control` in shim/rules.c): counters, and when the disk is full. */
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';

const PAGE_BYTES = 4096;
const FIELD = { operations: 0, allocations: 8, fullFrom: 16, fullUntil: 24, budget: 32, refused: 40 } as const;

/** When nothing more fits on the disk. */
export interface FullDisk {
  /** Number of the first create or write that fails, from 1. */
  readonly from?: number;
  /** Number of the first one that succeeds again; absent: none does. */
  readonly until?: number;
  /** Bytes that fit; then writes are cut short and fail. */
  readonly bytes?: number;
}

/** What the library counted. */
export interface Counts {
  /** Everything that was done to files and folders. */
  readonly operations: number;
  /** Creates and writes, done or refused. */
  readonly allocations: number;
  /** Those that found the disk full. */
  readonly refused: number;
}

/** Makes the page; a server that starts afterwards reads it. */
export function writeControl(path: string, full: FullDisk = {}): void {
  const page = Buffer.alloc(PAGE_BYTES);
  page.writeBigUInt64LE(BigInt(full.from ?? 0), FIELD.fullFrom);
  page.writeBigUInt64LE(BigInt(full.until ?? 0), FIELD.fullUntil);
  page.writeBigUInt64LE(full.bytes === undefined ? 0n : BigInt(full.bytes + 1), FIELD.budget);
  writeFileSync(path, page);
}

/** Gives a running server its room back. */
export function makeRoom(path: string): void {
  const file = openSync(path, 'r+');
  writeSync(file, Buffer.alloc(FIELD.refused - FIELD.fullFrom), 0, FIELD.refused - FIELD.fullFrom, FIELD.fullFrom);
  closeSync(file);
}

export function readCounts(path: string): Counts {
  const page = Buffer.alloc(PAGE_BYTES);
  const file = openSync(path, 'r');
  readSync(file, page, 0, PAGE_BYTES, 0);
  closeSync(file);
  const field = (at: number): number => Number(page.readBigUInt64LE(at));
  return {
    operations: field(FIELD.operations),
    allocations: field(FIELD.allocations),
    refused: field(FIELD.refused),
  };
}
