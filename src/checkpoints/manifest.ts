/** What a checkpoint's folder says of itself, in a file beside the engine's. */
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { codeOf } from '../errors/error-code.ts';
import { LuthierError } from '../errors/luthier-error.ts';

const FILE = 'manifest.json';
const FORMAT = 1;

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  /** `trainingJobs/{id}`. */
  job: z.string(),
  /** Steps done. */
  globalStep: z.int().min(0),
  createTime: z.iso.datetime(),
  /** SHA-256 of the job's encoded spec; hex. */
  specHash: z.string(),
  /** Content hash of the base model; hex. */
  baseModelHash: z.string(),
  /** The engine's files. */
  files: z.array(z.object({ name: z.string(), bytes: z.int().min(0), sha256: z.string() })).min(1),
});

export type Manifest = Omit<z.output<typeof manifestSchema>, 'format'>;

/** Anything else that reading fails with says nothing about the checkpoint. */
const isMissing = (error: unknown): boolean => ['ENOENT', 'ENOTDIR'].includes(codeOf(error));

const corrupt = (message: string, cause?: unknown): LuthierError =>
  new LuthierError('CHECKPOINT_CORRUPT', message, { cause });

/** Writes it through to the disk. */
export async function writeManifest(folder: string, manifest: Manifest): Promise<void> {
  const file = await open(join(folder, FILE), 'wx', 0o600);
  try {
    await file.writeFile(`${JSON.stringify({ format: FORMAT, ...manifest }, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Reads it and looks whether the files are there as long as they were written; what is in them is the engine's to check.
 * @throws LuthierError CHECKPOINT_CORRUPT
 */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, FILE);
  let manifest: Manifest;
  try {
    manifest = manifestSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (cause) {
    if (!(cause instanceof SyntaxError || cause instanceof z.ZodError || isMissing(cause))) throw cause;
    throw corrupt(`${path} is no manifest of a checkpoint that this version can read`, cause);
  }
  for (const { name, bytes } of manifest.files) {
    const size = await stat(join(folder, name)).then(
      (found) => found.size,
      (error: unknown) => {
        if (isMissing(error)) return null;
        throw error;
      },
    );
    if (size === bytes) continue;
    const found = size === null ? 'no such file' : `${size} bytes`;
    throw corrupt(`${join(folder, name)}: expected ${bytes} bytes, found ${found}`);
  }
  return manifest;
}
