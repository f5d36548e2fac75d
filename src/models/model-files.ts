/** Which files make a model, and whether they are those of an earlier time. */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';

/** What the file system says of a file. */
export interface FileStamp {
  readonly name: string;
  readonly sizeBytes: number;
  /** Milliseconds since 1970, with the fraction that the file system keeps. */
  readonly modifiedMs: number;
}

/** Tensors, whose numbers the content hash covers. */
const WEIGHTS = /\.(safetensors|bin|gguf)$/i;
/** Configuration, tokenizer and chat template. Other files say nothing of a model. */
const SETTINGS = /\.(json|model|jinja|txt)$/i;

async function stamp(folder: string, name: string): Promise<FileStamp[]> {
  const found = await stat(join(folder, name)).catch(() => null);
  return found?.isFile() ? [{ name, sizeBytes: found.size, modifiedMs: found.mtimeMs }] : [];
}

/** The files of a model by name; none where nothing is there. @param path A `.gguf` file or a folder. */
export async function stampFiles(path: string): Promise<readonly FileStamp[]> {
  const names = await readdir(path).catch(() => null);
  if (names === null) return stamp(join(path, '..'), basename(path));
  const ours = names.filter((name) => WEIGHTS.test(name) || SETTINGS.test(name)).sort();
  return (await Promise.all(ours.map((name) => stamp(path, name)))).flat();
}

/** SHA-256 over names and contents of the files that hold no tensors; hex. */
export async function settingsDigest(path: string, files: readonly FileStamp[]): Promise<string> {
  const digest = createHash('sha256');
  for (const { name } of files.filter((file) => !WEIGHTS.test(file.name))) {
    const contents = await readFile(join(path, name));
    digest.update(`${name} ${contents.length}\n`).update(contents);
  }
  return digest.digest('hex');
}

/** How two looks at a model's files differ. */
export interface FileChanges {
  /** One clause for people for each file that differs, came or went. */
  readonly descriptions: readonly string[];
  /** True where only times differ: the contents may be the same. */
  readonly onlyTimes: boolean;
}

/** Compares two looks at the same path. */
export function compareFiles(before: readonly FileStamp[], now: readonly FileStamp[]): FileChanges {
  const descriptions: string[] = [];
  let onlyTimes = true;
  const add = (name: string, what: string, isTime = false): void => {
    descriptions.push(`${name} ${what}`);
    onlyTimes &&= isTime;
  };
  for (const old of before) {
    const file = now.find(({ name }) => name === old.name);
    if (file === undefined) add(old.name, 'is gone');
    else if (file.sizeBytes !== old.sizeBytes) add(old.name, `had ${old.sizeBytes} bytes and has ${file.sizeBytes}`);
    else if (file.modifiedMs !== old.modifiedMs) {
      add(old.name, `was written on ${new Date(file.modifiedMs).toISOString()}`, true);
    }
  }
  for (const { name } of now) if (!before.some((old) => old.name === name)) add(name, 'is new');
  return { descriptions, onlyTimes };
}
