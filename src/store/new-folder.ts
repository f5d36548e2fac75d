import { mkdir, readdir, rm, rmdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { codeOf } from '../errors/error-code.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { makeFolder, moveIntoPlace, writingFolderIn } from './durable-folders.ts';
import type { WritingFolders } from './writing-folders.ts';

const notEmpty = (path: string): LuthierError =>
  new LuthierError(
    'EXPORT_TARGET_NOT_EMPTY',
    `${path} is there already and not an empty folder; choose another path or empty it`,
    { resource: { type: 'path', name: path } },
  );

/** What the system says of a place where something else stands. */
const TAKEN = new Set(['ENOTEMPTY', 'EEXIST', 'ENOTDIR']);

/** Runs an action on the place; nothing there is no failure. */
async function atPlace<Result>(path: string, action: () => Promise<Result>): Promise<Result | null> {
  try {
    return await action();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw TAKEN.has(codeOf(error)) ? notEmpty(path) : error;
  }
}

/** Makes the folders above the place. A file, or a folder that is closed to this process, in the way is the client's to know. */
async function makeParent(target: string): Promise<void> {
  const parent = dirname(target);
  try {
    await makeFolder(parent);
  } catch (error) {
    const why = new Map([
      ['EEXIST', 'a file stands in its way'],
      ['ENOTDIR', 'a file stands in its way'],
      ['EACCES', 'the server may not write there'],
      ['EPERM', 'the server may not write there'],
    ]).get(codeOf(error));
    if (why === undefined) throw error;
    throw new LuthierError('INVALID_REQUEST', `the folder ${parent} cannot be made: ${why}; choose another path`, {
      cause: error,
      resource: { type: 'path', name: target },
    });
  }
}

/** A folder that appears whole at its place or not at all: it is filled beside it. Dispose of it in any case. */
export class NewFolder implements AsyncDisposable {
  /** Where it appears. */
  readonly target: string;
  /** What to fill: empty at first. Files must be written through to the disk. */
  readonly path: string;
  readonly #writing: WritingFolders;

  private constructor(target: string, path: string, writing: WritingFolders) {
    this.target = target;
    this.path = path;
    this.#writing = writing;
  }

  /**
   * @param target Absolute, and allowed to the client that named it. Nothing, or an empty folder, may stand there.
   * @param writing Knows it until it is finished or disposed of.
   * @throws LuthierError EXPORT_TARGET_NOT_EMPTY, INVALID_REQUEST where the folder above it cannot be made
   */
  static async open(target: string, writing: WritingFolders): Promise<NewFolder> {
    await makeParent(target);
    const names = await atPlace(target, () => readdir(target));
    if (names !== null && names.length > 0) throw notEmpty(target);
    const path = writingFolderIn(dirname(target));
    writing.add(path);
    try {
      await mkdir(path);
    } catch (error) {
      writing.remove(path);
      throw error;
    }
    return new NewFolder(target, path, writing);
  }

  /** Moves it to its place. @throws LuthierError EXPORT_TARGET_NOT_EMPTY where something came there meanwhile */
  async finish(): Promise<void> {
    await atPlace(this.target, () => rmdir(this.target));
    await atPlace(this.target, () => moveIntoPlace(this.path, this.target));
  }

  /** Deletes what was written, unless it is at its place. */
  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
    this.#writing.remove(this.path);
  }
}
