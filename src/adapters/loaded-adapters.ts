/** Adapters in memory: loaded once however many ask, kept for a while after the last one let go. */
import type { AdapterHandle, BaseModel } from '../engine/engine.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { ModelLease } from '../models/model-registry.ts';
import { checkBaseHash } from './adapter-errors.ts';
import { type AdapterLease, isForOtherBase, type StoredAdapter } from './adapter-store.ts';

/** Adapters kept in memory though nobody uses them: the ones used last. */
const IDLE_LIMIT = 8;

interface Entry {
  /** Of the adapter. */
  readonly name: string;
  readonly model: BaseModel;
  readonly handle: Promise<AdapterHandle>;
  users: number;
}

export class LoadedAdapters {
  /** By adapter name and the form of the base's weights; the one used last stands last. */
  readonly #entries = new Map<string, Entry>();
  /** Entries of a base that was unloaded and loaded again, until their last user lets go. */
  readonly #outdated = new Set<Entry>();

  /** @throws LuthierError ADAPTER_MISMATCH, ADAPTER_CORRUPT, OUT_OF_MEMORY */
  async acquire(adapter: StoredAdapter, base: ModelLease): Promise<AdapterLease> {
    checkBaseHash(adapter.name, adapter.origin.baseModelHash, base);
    const entry = this.#entry(adapter, base.model);
    // Counted before the first await: a load under way is use, too.
    entry.users += 1;
    try {
      const handle = await entry.handle;
      let held = true;
      const release = (): void => {
        if (held) this.#release(entry);
        held = false;
      };
      return { adapter, handle, release };
    } catch (error) {
      entry.users -= 1;
      const key = keyOf(adapter.name, base.model);
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
      throw toLuthierError(error);
    }
  }

  /** Leases of an adapter held now. */
  users(name: string): number {
    return this.#of(name).reduce((sum, [, { users }]) => sum + users, 0);
  }

  /** Frees an adapter that nobody uses. */
  forget(name: string): void {
    for (const [key, entry] of this.#of(name)) this.#drop(key, entry);
  }

  close(): void {
    for (const [key, entry] of [...this.#entries]) this.#drop(key, entry);
  }

  #of(name: string): [string, Entry][] {
    return [...this.#entries].filter(([, entry]) => entry.name === name);
  }

  #drop(key: string, entry: Entry): void {
    this.#entries.delete(key);
    this.#retire(entry);
  }

  #entry(adapter: StoredAdapter, model: BaseModel): Entry {
    const key = keyOf(adapter.name, model);
    const known = this.#entries.get(key);
    this.#entries.delete(key);
    if (known && known.model !== model) this.#retire(known);
    const load = (): Entry => {
      const handle = model.loadAdapter(adapter.folder, isForOtherBase(adapter));
      return { name: adapter.name, model, handle, users: 0 };
    };
    const entry = known?.model === model ? known : load();
    this.#entries.set(key, entry);
    return entry;
  }

  #release(entry: Entry): void {
    entry.users -= 1;
    if (entry.users === 0 && this.#outdated.delete(entry)) closeHandle(entry);
    const idle = [...this.#entries].filter(([, { users }]) => users === 0);
    for (const [key, idleEntry] of idle.slice(0, Math.max(0, idle.length - IDLE_LIMIT))) this.#drop(key, idleEntry);
  }

  #retire(entry: Entry): void {
    if (entry.users === 0) closeHandle(entry);
    else this.#outdated.add(entry);
  }
}

const keyOf = (name: string, { storage }: BaseModel): string => `${storage} ${name}`;

/** A load that failed has told its callers; there is nothing to close. */
function closeHandle({ handle }: Entry): void {
  handle.then(
    (loaded) => loaded.close(),
    () => undefined,
  );
}
