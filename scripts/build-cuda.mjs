/** `npm run build:cuda`: compiles the CUDA addon beside the processor's one. Needs no GPU and no driver; sets up a toolkit where there is none. */
import { join, resolve } from 'node:path';
import { buildAddon } from './build-native.mjs';
import { cudaToolkit, toolkitEnvironment } from './cuda-toolkit.mjs';
import { cudnnEnvironment } from './cudnn.mjs';
import { childEnvironment, ROOT } from './node24.mjs';

const home = await cudaToolkit();
const base = childEnvironment();
// A target folder of its own: the two builds differ in features and environment, and would undo each other's work.
const target = join(resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target'), 'cuda');
const toolkit = toolkitEnvironment(home, base);
const env = { ...base, ...toolkit, ...(await cudnnEnvironment(home, toolkit)), CARGO_TARGET_DIR: target };
const addon = await buildAddon('luthier-cuda.node', ['--features', 'cuda'], env);
console.log(`build: ${addon}, with the toolkit in ${home}`);
