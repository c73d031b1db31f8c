// Checks an AsyncAPI document and JSON Schemas with the tools of others.
//
//     node check.mjs FOLDER_OF_NODE_MODULES asyncapi FILE
//     node check.mjs FOLDER_OF_NODE_MODULES schemas FILE...
//
// Prints a JSON array of problems.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [folder, check, ...files] = process.argv.slice(2);
const require = createRequire(resolve(folder, "package.json"));

/** Returns the problems that the parser of AsyncAPI finds, of every severity. */
async function checkAsyncapi(file) {
  const { Parser } = require("@asyncapi/parser");
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const problems = diagnostics.map(({ code, message, path }) => [code, message, path.join(".")]);
  return document ? problems : [...problems, "there is no document"];
}

/** Returns the schemas that Ajv cannot compile in its strict mode, which allows no unknown words. */
function checkSchemas(schemas) {
  const Ajv = require("ajv/dist/2020").default;
  const problems = [];
  for (const schema of schemas) {
    const log = (text) => problems.push([schema, text]);
    const ajv = new Ajv({ strict: true, logger: { log, warn: log, error: log } });
    require("ajv-formats")(ajv);
    try {
      ajv.compile(JSON.parse(readFileSync(schema, "utf8")));
    } catch (error) {
      log(error.message);
    }
  }
  return problems;
}

const problems = check === "asyncapi" ? await checkAsyncapi(files[0]) : checkSchemas(files);
console.log(JSON.stringify(problems, null, 1));
