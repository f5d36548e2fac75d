#!/usr/bin/env node
/** The `luthier` command: finds a Node that runs the product, then hands over. Runs on any Node >= 20. */
import { spawn } from 'node:child_process';
import { realpathSync } from 'node:fs';
import nodeModule from 'node:module';
import { constants, homedir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { findNode, ROOT, typeScriptFlags } from '../scripts/node24.mjs';

const MAIN = join(ROOT, 'clients', 'cli', 'src', 'main.ts');

/**
 * Where Node keeps what it makes of the source files, so that the second command starts in less than half the time. A folder of
 * the user's own: whoever can write there decides what runs. The server uses the same one.
 */
const COMPILE_CACHE =
  process.env.NODE_COMPILE_CACHE ??
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'luthier', 'compile-cache');

/** Runs the command line in a process of its own, passes signals on, and ends as it ends. */
function runWith(node, flags) {
  const child = spawn(node, [...flags, MAIN, ...process.argv.slice(2)], {
    stdio: 'inherit',
    env: { ...process.env, NODE_COMPILE_CACHE: COMPILE_CACHE },
  });
  // On a terminal Ctrl-C reaches both processes; this one only waits for the other.
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'));
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.once('error', (error) => {
    console.error(`error: cannot start ${node}: ${error.message}`);
    process.exitCode = 1;
  });
  child.once('close', (code, signal) => {
    process.exitCode = code ?? 128 + (constants.signals[signal] ?? 0);
  });
}

try {
  const node = findNode();
  const here = realpathSync(node) === realpathSync(process.execPath);
  const flags = here ? typeScriptFlags(process.versions.node) : [];
  if (here && flags.length === 0) {
    // Older versions of Node lack it.
    nodeModule.enableCompileCache?.(COMPILE_CACHE);
    await import(pathToFileURL(MAIN).href);
  } else runWith(node, flags);
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
