/**
 * Finds the CUDA toolkit that the CUDA engine is compiled and linked with, or sets one up from PyPI wheels in the user's cache folder. Only
 * what nvcc and cuBLASLt need; no GPU and no driver.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { mustRun } from './run.mjs';
import { cacheFolder } from './smollm2.mjs';

/** Major version of CUDA: libraries of another one have other names. */
const MAJOR = 13;

const WHEELS = [
  'nvidia-cuda-nvcc==13.0.88',
  'nvidia-cuda-crt==13.0.88',
  'nvidia-nvvm==13.0.88',
  'nvidia-cuda-runtime==13.0.96',
  'nvidia-cuda-cccl==13.0.85',
  'nvidia-cublas==13.0.2.14',
  'nvidia-cuda-nvrtc==13.0.88',
];

/** Where libraries lie in a toolkit: of an installer, of a distribution, of wheels. */
const LIBRARY_FOLDERS = ['lib64', 'lib', join('targets', 'x86_64-linux', 'lib'), join('targets', 'sbsa-linux', 'lib')];

/** The toolkit that this script sets up; also where its libraries are found at run time. */
export function ownToolkit() {
  return join(cacheFolder(), `cuda-${MAJOR}.0`, 'nvidia', `cu${MAJOR}`);
}

function libraryFolder(home) {
  return LIBRARY_FOLDERS.map((name) => join(home, name)).find((folder) => existsSync(join(folder, 'libcublasLt.so')));
}

/** `CUDA_VERSION` of cuda.h, such as 13000; 0 without one. */
function cudaVersion(home) {
  const header = join(home, 'include', 'cuda.h');
  if (!existsSync(header)) return 0;
  return Number(readFileSync(header, 'utf8').match(/^#define CUDA_VERSION (\d+)/m)?.[1] ?? 0);
}

/** What a folder lacks to be a toolkit, as text; null where it lacks nothing. */
export function missingIn(home) {
  if (!existsSync(join(home, 'bin', 'nvcc'))) return 'there is no bin/nvcc';
  const version = cudaVersion(home);
  if (Math.floor(version / 1000) !== MAJOR) {
    const found = version === 0 ? 'no include/cuda.h' : `${Math.floor(version / 1000)}.${(version % 1000) / 10}`;
    return `expected CUDA ${MAJOR}, found ${found}`;
  }
  if (!existsSync(join(home, 'include', 'cublasLt.h'))) return 'there is no include/cublasLt.h';
  return libraryFolder(home) === undefined ? 'there is no libcublasLt.so' : null;
}

/** Folders that may be a toolkit, best first. */
export function candidates(env) {
  const onPath = (env.PATH ?? '').split(delimiter).find((folder) => existsSync(join(folder, 'nvcc')));
  const found = [env.CUDA_HOME, env.CUDA_PATH, '/usr/local/cuda', onPath && dirname(onPath)];
  return [...new Set(found.filter(Boolean))];
}

/** A library with every function of the driver, to link against where there is no driver. Each answers CUDA_ERROR_STUB_LIBRARY. */
async function makeDriverStub(home) {
  const stubs = join(home, 'lib', 'stubs');
  mkdirSync(stubs, { recursive: true });
  const names =
    'cc -E -D__CUDA_API_VERSION_INTERNAL "$1/include/cuda.h" | grep -oE "\\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\\(" | tr -d "( " | sort -u';
  const compile = 'cc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c - -o "$1/lib/stubs/libcuda.so"';
  await mustRun('bash', [
    '-euo',
    'pipefail',
    '-c',
    `${names} | sed 's/.*/int &(void){return 34;}/' | ${compile}`,
    '--',
    home,
  ]);
}

/** Installs the wheels (about 600 MB to fetch) and gives them the shape of a toolkit. */
async function setUp(home) {
  const root = dirname(dirname(home));
  console.log(`build: fetching the CUDA ${MAJOR} toolkit from PyPI into ${root}`);
  mkdirSync(dirname(root), { recursive: true });
  // Beside its destination, so that the last step is a rename and an interrupted download leaves nothing half-made.
  const work = mkdtempSync(`${root}-`);
  try {
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps', '--target', work];
    await mustRun('python3', [...pip, ...WHEELS]);
    const made = join(work, 'nvidia', `cu${MAJOR}`);
    symlinkSync('lib', join(made, 'lib64'));
    // The linker looks for libNAME.so.
    for (const name of readdirSync(join(made, 'lib'))) {
      const base = name.match(/^(lib.*\.so)\./)?.[1];
      if (base !== undefined && !existsSync(join(made, 'lib', base))) symlinkSync(name, join(made, 'lib', base));
    }
    await makeDriverStub(made);
    const missing = missingIn(made);
    if (missing !== null) throw new Error(`the wheels make no CUDA toolkit: ${missing}. Nothing was kept.`);
    rmSync(root, { recursive: true, force: true });
    renameSync(work, root);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Folder of a usable toolkit; says what was passed over, and sets one up where there is none. */
export async function cudaToolkit(env = process.env) {
  if (process.platform !== 'linux') throw new Error(`the CUDA engine is built on Linux; this is ${process.platform}`);
  for (const home of candidates(env)) {
    const missing = missingIn(home);
    if (missing === null) return home;
    if (existsSync(home)) console.log(`build: ${home} is not used: ${missing}`);
  }
  const own = ownToolkit();
  if (missingIn(own) === null) return own;
  // nvcc needs it, and the stub: known before 600 MB are fetched.
  await mustRun('cc', ['--version']);
  await setUp(own);
  return own;
}

/** The environment in which cargo, nvcc and the linker find a toolkit. */
export function toolkitEnvironment(home, env = process.env) {
  const libraries = libraryFolder(home) ?? join(home, 'lib64');
  const path = (...parts) => parts.filter(Boolean).join(delimiter);
  return {
    CUDA_HOME: home,
    CUDA_PATH: home,
    CUDA_ROOT: home,
    CUDA_TOOLKIT_ROOT_DIR: home,
    PATH: path(join(home, 'bin'), env.PATH),
    LIBRARY_PATH: path(libraries, join(libraries, 'stubs'), env.LIBRARY_PATH),
    // Read by the addon's build script: the folder its libraries are looked for in, after those of the system.
    LUTHIER_CUDA_LIBRARIES: libraries,
  };
}
