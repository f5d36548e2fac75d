/**
 * A disk that keeps what was synced. Operations of a journal go in; what the disk holds after a power cut comes out:
 * contents since a file's last sync and names since a folder's last sync are kept or lost, each by itself.
 */
import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Operation } from './journal.ts';
import type { Random } from './random.ts';

/**
 * How a disk loses what was not synced.
 * `nothing`: all of it. `any`: a random part is kept, sector by sector and name by name, in any order, which is what POSIX allows. `ordered`:
 * contents as `any`, names up to one moment, as a file system with a journal has them.
 */
export const CUTS = ['nothing', 'any', 'ordered'] as const;
export type Cut = (typeof CUTS)[number];

/** Bytes that a disk writes whole or not at all. */
const SECTORS = [512, 4096] as const;

interface Write {
  readonly offset: number;
  /** Null: a truncate to `offset`. */
  readonly data: Buffer | null;
}

interface File {
  readonly kind: 'file';
  durable: Buffer;
  pending: Write[];
}

interface Folder {
  readonly kind: 'folder';
  readonly durable: Map<string, Node>;
  readonly current: Map<string, Node>;
}

type Node = File | Folder;

/** One change of names: whole or not at all, as file systems with a journal make it. */
interface Naming {
  readonly changes: readonly { readonly folder: Folder; readonly name: string; readonly node: Node | null }[];
}

const newFile = (durable: Buffer = Buffer.alloc(0)): File => ({ kind: 'file', durable, pending: [] });
const newFolder = (): Folder => ({ kind: 'folder', durable: new Map(), current: new Map() });

function resized(content: Buffer, length: number): Buffer {
  return length <= content.length
    ? content.subarray(0, length)
    : Buffer.concat([content, Buffer.alloc(length - content.length)]);
}

/** A content after some writes. */
function written(content: Buffer, writes: readonly Write[]): Buffer {
  let length = content.length;
  let longest = length;
  for (const { offset, data } of writes) {
    length = data === null ? offset : Math.max(length, offset + data.length);
    longest = Math.max(longest, length);
  }
  const bytes = Buffer.alloc(longest);
  content.copy(bytes);
  length = content.length;
  for (const { offset, data } of writes) {
    if (data === null) {
      // What is cut off reads as zeros where the file grows again.
      if (offset < length) bytes.fill(0, offset, length);
      length = offset;
    } else {
      data.copy(bytes, offset);
      length = Math.max(length, offset + data.length);
    }
  }
  return resized(bytes, length);
}

/** A write in pieces that end where sectors end. */
function sectorsOf({ offset, data }: Write, sector: number): Write[] {
  if (data === null) return [{ offset, data }];
  const pieces: Write[] = [];
  for (let done = 0; done < data.length; ) {
    const at = offset + done;
    const length = Math.min(sector - (at % sector), data.length - done);
    pieces.push({ offset: at, data: data.subarray(done, done + length) });
    done += length;
  }
  return pieces;
}

export class Disk {
  readonly #root: Folder;
  readonly #nodes = new Map<bigint, Node>();
  #namings: Naming[] = [];

  private constructor(root: Folder) {
    this.#root = root;
  }

  /** A disk that holds a folder's tree, all of it durable; to be read before the process starts whose journal follows. */
  static of(path: string): Disk {
    const disk = new Disk(newFolder());
    disk.#take(path, disk.#root);
    return disk;
  }

  #take(path: string, folder: Folder): void {
    this.#nodes.set(BigInt(lstatSync(path).ino), folder);
    for (const name of readdirSync(path)) {
      const below = join(path, name);
      const isFolder = lstatSync(below).isDirectory();
      const node = isFolder ? newFolder() : newFile(readFileSync(below));
      if (node.kind === 'folder') this.#take(below, node);
      else this.#nodes.set(BigInt(lstatSync(below).ino), node);
      folder.durable.set(name, node);
      folder.current.set(name, node);
    }
  }

  /** Does what the process did. */
  apply({ kind, inode, path, other, offset, data }: Operation): void {
    switch (kind) {
      case 'create':
      case 'mkdir': {
        const node = kind === 'create' ? newFile() : newFolder();
        this.#nodes.set(inode, node);
        this.#name([[path, node]]);
        return;
      }
      case 'rename': {
        const node = this.#at(path);
        this.#name([
          [path, null],
          [other, node],
        ]);
        return;
      }
      case 'link':
        this.#name([[other, this.#at(path)]]);
        return;
      case 'unlink':
      case 'rmdir':
        this.#name([[path, null]]);
        return;
      case 'write':
      case 'truncate':
        this.#file(inode, path).pending.push({ offset, data: kind === 'write' ? data : null });
        return;
      case 'sync':
        this.#sync(this.#nodes.get(inode) ?? this.#at(path));
    }
  }

  /** Writes what is left after a power cut into an empty folder. */
  cut(target: string, how: Cut, random: Random): void {
    const namings = this.#keptNamings(how, random);
    const names = new Map<Folder, Map<string, Node>>();
    for (const { changes } of namings) {
      for (const { folder, name, node } of changes) {
        const entries = names.get(folder) ?? new Map(folder.durable);
        names.set(folder, entries);
        if (node === null) entries.delete(name);
        else entries.set(name, node);
      }
    }
    const put = (folder: Folder, path: string): void => {
      for (const [name, node] of names.get(folder) ?? folder.durable) {
        const below = join(path, name);
        if (node.kind === 'folder') {
          mkdirSync(below, { mode: 0o700 });
          put(node, below);
        } else writeFileSync(below, this.#keptContent(node, how, random), { mode: 0o600 });
      }
    };
    put(this.#root, target);
    chmodSync(target, 0o700);
  }

  #keptNamings(how: Cut, random: Random): readonly Naming[] {
    if (how === 'nothing') return [];
    if (how === 'ordered') return this.#namings.slice(0, random.below(this.#namings.length + 1));
    const share = random.next();
    return this.#namings.filter(() => random.chance(share));
  }

  #keptContent({ durable, pending }: File, how: Cut, random: Random): Buffer {
    if (how === 'nothing') return durable;
    const sector = random.pick(SECTORS);
    const share = random.next();
    const kept = pending.flatMap((write) => sectorsOf(write, sector)).filter(() => random.chance(share));
    const content = written(durable, kept);
    // A length may reach the disk before the contents do.
    const length = written(durable, pending).length;
    return random.chance(0.25) && length > content.length ? resized(content, length) : content;
  }

  #name(entries: readonly (readonly [path: string, node: Node | null])[]): void {
    const changes = entries.map(([path, node]) => ({ folder: this.#folder(dirname(path)), name: nameOf(path), node }));
    for (const { folder, name, node } of changes) {
      if (node === null) folder.current.delete(name);
      else folder.current.set(name, node);
    }
    this.#namings.push({ changes });
  }

  #sync(node: Node): void {
    if (node.kind === 'file') {
      node.durable = written(node.durable, node.pending);
      node.pending = [];
      return;
    }
    const pending: Naming[] = [];
    for (const naming of this.#namings) {
      if (naming.changes.some(({ folder }) => folder === node)) this.#makeDurable(naming, pending);
      else pending.push(naming);
    }
    this.#namings = pending.filter(({ changes }) => changes.length > 0);
  }

  /** @param earlier Namings before it that are not durable: what they did to the same names does not count any more. */
  #makeDurable({ changes }: Naming, earlier: Naming[]): void {
    for (const { folder, name, node } of changes) {
      if (node === null) folder.durable.delete(name);
      else folder.durable.set(name, node);
      for (const [index, naming] of earlier.entries()) {
        earlier[index] = { changes: naming.changes.filter((one) => one.folder !== folder || one.name !== name) };
      }
    }
  }

  #file(inode: bigint, path: string): File {
    const node = this.#nodes.get(inode) ?? this.#at(path);
    if (node.kind !== 'file') throw new Error(`the journal writes to the folder ${path}`);
    return node;
  }

  #folder(path: string): Folder {
    const node = path === '.' ? this.#root : this.#at(path);
    if (node.kind !== 'folder') throw new Error(`the journal takes the file ${path} for a folder`);
    return node;
  }

  #at(path: string): Node {
    let node: Node = this.#root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      const next: Node | undefined = node.kind === 'folder' ? node.current.get(name) : undefined;
      if (next === undefined) throw new Error(`the journal names ${path}, which no operation before it made`);
      node = next;
    }
    return node;
  }
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
