/** A disk with a data folder and a folder for exports, and what a client knows of the servers that had it. */

import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ledger } from './ledger.ts';

export class World implements Disposable {
  readonly #scratch: string;
  ledger: Ledger;

  constructor() {
    this.#scratch = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-chaos-')));
    this.ledger = new Ledger();
    mkdirSync(this.disk);
  }

  /** Empties the disk, to be filled with another state of it: at the same place, for what is stored names places. */
  renew(ledger: Ledger): void {
    rmSync(this.disk, { recursive: true, force: true });
    mkdirSync(this.disk);
    this.ledger = ledger;
  }

  /** What the library watches. */
  get disk(): string {
    return join(this.#scratch, 'disk');
  }

  get dataFolder(): string {
    return join(this.disk, 'data');
  }

  get exports(): string {
    return join(this.disk, 'exports');
  }

  /** A path beside the disk, of a file or a folder that the harness makes. */
  beside(name: string): string {
    return join(this.#scratch, name);
  }

  /** Keeps the disk as it is, to be looked at. @param target A folder that may exist. */
  save(target: string): void {
    rmSync(target, { recursive: true, force: true });
    if (existsSync(this.#scratch)) cpSync(this.#scratch, target, { recursive: true });
  }

  [Symbol.dispose](): void {
    rmSync(this.#scratch, { recursive: true, force: true });
  }
}

/** SHA-256 of a file, hex. */
export const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
