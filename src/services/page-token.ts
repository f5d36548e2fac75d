import { LuthierError } from '../errors/luthier-error.ts';

const DEFAULT_PAGE_SIZE = 50;

/**
 * One page of a list that is ordered by name. The token of the next page is the last name of this one, so that what is added or deleted
 * in between neither repeats nor hides anything else.
 * @param prefix What every name starts with, such as `datasets/`.
 * @param list Gives at most `count` items after a name; the empty name stands before all.
 * @throws LuthierError INVALID_REQUEST for a token that no page gave
 */
export function pageByName<Item extends { readonly name: string }>(
  request: { readonly pageSize: number; readonly pageToken: string },
  prefix: string,
  list: (after: string, count: number) => readonly Item[],
): { readonly items: readonly Item[]; readonly nextPageToken: string } {
  const after = Buffer.from(request.pageToken, 'base64url').toString();
  if (request.pageToken !== '' && !after.startsWith(prefix)) {
    const description = 'expected a next_page_token of the same list';
    throw new LuthierError('INVALID_REQUEST', `page_token: ${description}`, {
      violations: [{ field: 'page_token', description, reason: '' }],
    });
  }
  const size = request.pageSize === 0 ? DEFAULT_PAGE_SIZE : request.pageSize;
  const found = list(after, size + 1);
  const items = found.slice(0, size);
  const last = found.length > size ? (items.at(-1)?.name ?? '') : '';
  return { items, nextPageToken: Buffer.from(last).toString('base64url') };
}
