// OpenAI's client in Node: `base64` is what it asks for by default.
const { readFileSync } = require("node:fs");
const OpenAI = require("openai");

const [url, way] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: way === "async" ? 10 : 2 });
const options = way === "float" ? { model: "any", encoding_format: "float" } : { model: "any" };

async function ask(input) {
  const { data } = await client.embeddings.create({ input, ...options });
  return data.map((item) => item.embedding);
}

// Each text apart, all at once; more than the service lets wait are asked again.
const askAtOnce = async (texts) => (await Promise.all(texts.map(ask))).flat();

async function main() {
  const lists = JSON.parse(readFileSync(0, "utf-8"));
  const vectors = await Promise.all(lists.map(way === "async" ? askAtOnce : ask));
  process.stdout.write(JSON.stringify(vectors));
}

main();
