import { lstat, realpath } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { codeOf } from '../errors/error-code.ts';
import { LuthierError } from '../errors/luthier-error.ts';

const missing = (error: unknown): boolean => ['ENOENT', 'ENOTDIR'].includes(codeOf(error));

/** The path with every symbolic link resolved; what does not exist yet is kept as it is. Null: a link that leads nowhere. */
async function resolveLinks(path: string): Promise<string | null> {
  try {
    return await realpath(path);
  } catch (error) {
    if (!missing(error) || dirname(path) === path) return null;
  }
  const dangling = await lstat(path).then(
    () => true,
    (error: unknown) => !missing(error),
  );
  if (dangling) return null;
  const parent = await resolveLinks(dirname(path));
  return parent === null ? null : join(parent, basename(path));
}

function isInside(path: string, root: string): boolean {
  const way = relative(root, path);
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}

/**
 * The real path behind a path that a client sent, if it lies under one of the roots after symbolic links are resolved. A relative path is
 * looked for under each root. The path need not exist. What is outside is refused alike whether it exists or not.
 * @returns An absolute path without symbolic links.
 * @throws LuthierError PATH_NOT_ALLOWED
 */
export async function checkPath(path: string, roots: readonly string[]): Promise<string> {
  const refused = new LuthierError(
    'PATH_NOT_ALLOWED',
    roots.length === 0
      ? `path ${JSON.stringify(path)} is refused: this server accepts no paths; its operator can name folders (--model-root, --export-root)`
      : `path ${JSON.stringify(path)} is refused: expected one under ${roots.join(' or ')}, after symbolic links are resolved; the server's operator can name more folders (--model-root, --export-root)`,
    { resource: { type: 'path', name: path } },
  );
  if (path === '' || path.includes('\0')) throw refused;
  let candidate: string | null = null;
  for (const root of roots) {
    const realRoot = await resolveLinks(resolve(root));
    const real =
      realRoot === null ? null : await resolveLinks(isAbsolute(path) ? resolve(path) : resolve(realRoot, path));
    if (realRoot === null || real === null || !isInside(real, realRoot)) continue;
    candidate ??= real;
    if (isAbsolute(path) || (await exists(real))) return real;
  }
  if (candidate !== null) return candidate;
  throw refused;
}

/**
 * As `checkPath`, for a folder that is to be made: below a root, not the root itself.
 * @throws LuthierError PATH_NOT_ALLOWED
 */
export async function checkNewFolder(path: string, roots: readonly string[]): Promise<string> {
  const real = await checkPath(path, roots);
  for (const root of roots) {
    if (real !== (await resolveLinks(resolve(root)))) continue;
    const message = `path ${JSON.stringify(path)} is refused: it is a folder that others write into, too; name a new one below it`;
    throw new LuthierError('PATH_NOT_ALLOWED', message, { resource: { type: 'path', name: path } });
  }
  return real;
}

const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );
