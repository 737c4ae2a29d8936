// Chats in the browser's IndexedDB. Without it (private windows) chats last as long as the page.

const STORE = "chats";
let database;

function open() {
  database ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open("playground", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  }).catch(() => null);
  return database;
}

async function run(mode, work) {
  const opened = await open();
  if (!opened) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = opened.transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    transaction.commit(); // at once: the page may be left in the next moment
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

export const loadChats = async () => (await run("readonly", (store) => store.getAll())) ?? [];
export const saveChat = (chat) => run("readwrite", (store) => store.put(chat));
export const removeChat = (id) => run("readwrite", (store) => store.delete(id));
