/** Lists come in pages; this walks them. */

interface Page {
  readonly nextPageToken: string;
}

/** Yields every page of a list, such as `eachPage((pageToken) => client.listDatasets({ pageToken }))`. */
export async function* eachPage<T extends Page>(
  list: (pageToken: string) => Promise<T>,
): AsyncGenerator<T, void, undefined> {
  let pageToken = '';
  do {
    const page = await list(pageToken);
    yield page;
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
}
