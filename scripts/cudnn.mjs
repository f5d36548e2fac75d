/**
 * Finds cuDNN (attention) beside the CUDA toolkit, or sets it up from PyPI wheels in the user's cache folder. Its headers are needed to
 * compile; the library is opened when a GPU is, and may be missing then.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { mustRun } from './run.mjs';
import { cacheFolder } from './smollm2.mjs';

/** cuDNN, and the headers of its C++ frontend. */
const WHEELS = ['nvidia-cudnn-cu13==9.19.1.2', 'nvidia-cudnn-frontend==1.32.0'];
const HEADERS = ['cudnn.h', 'cudnn_frontend.h'];

const ownFolder = () => join(cacheFolder(), 'cudnn-9');
const includeFolders = (root) => [join(root, 'include'), join(root, 'nvidia', 'cudnn', 'include')];

/** Where its library lies once this script has set it up. */
export const ownCudnnLibraries = () => join(ownFolder(), 'nvidia', 'cudnn', 'lib');

/** Whether every header lies in one of the folders. */
const complete = (folders) => HEADERS.every((name) => folders.some((folder) => existsSync(join(folder, name))));

/** Installs the wheels (about 400 MB to fetch). */
async function setUp(root) {
  console.log(`build: fetching cuDNN from PyPI into ${root}`);
  mkdirSync(dirname(root), { recursive: true });
  // Beside its destination, so that the last step is a rename and an interrupted download leaves nothing half-made.
  const work = mkdtempSync(`${root}-`);
  try {
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps', '--target', work];
    await mustRun('python3', [...pip, ...WHEELS]);
    if (!complete(includeFolders(work))) throw new Error(`the wheels lack ${HEADERS.join(' or ')}. Nothing was kept.`);
    rmSync(root, { recursive: true, force: true });
    renameSync(work, root);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * The environment in which the kernels' build script finds cuDNN's headers, and the addon its library.
 *
 * @param home the CUDA toolkit's folder
 * @param env with `LUTHIER_CUDA_LIBRARIES` of the toolkit
 */
export async function cudnnEnvironment(home, env) {
  if (complete([join(home, 'include'), '/usr/include'])) return {};
  const root = ownFolder();
  if (!complete(includeFolders(root))) await setUp(root);
  return {
    LUTHIER_CUDNN_INCLUDE: includeFolders(root).join(delimiter),
    LUTHIER_CUDA_LIBRARIES: [env.LUTHIER_CUDA_LIBRARIES, ownCudnnLibraries()].join(delimiter),
  };
}
