/** What the doctor looks at, behind an interface: tests bring machines that are not there. */
import { totalmem } from 'node:os';
import { ownToolkit } from '../../scripts/cuda-toolkit.mjs';
import { ownCudnnLibraries } from '../../scripts/cudnn.mjs';
import { isSupported } from '../../scripts/node24.mjs';
import { type Addons, INSTALLED_ADDONS } from '../engine/addon-files.ts';

/** A machine. */
export interface System {
  readonly nodeVersion: string;
  readonly nodeIsSupported: boolean;
  readonly addons: Addons;
  /** Of this process: a container's limit where it has one. */
  readonly memory: { readonly totalBytes: number; readonly availableBytes: number };
  /** Folders with CUDA libraries that the CUDA addon finds by itself. */
  readonly libraryFolders: readonly string[];
}

/** This machine. */
export function thisSystem(): System {
  const { node } = process.versions;
  return {
    nodeVersion: node,
    nodeIsSupported: isSupported(node),
    addons: INSTALLED_ADDONS,
    // Without a limit Node answers 0, or more than there is.
    memory: {
      totalBytes: Math.min(process.constrainedMemory() || totalmem(), totalmem()),
      availableBytes: process.availableMemory(),
    },
    libraryFolders: [`${ownToolkit()}/lib`, ownCudnnLibraries()],
  };
}
