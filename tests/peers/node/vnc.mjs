// Opens the noVNC page in Chromium, looks at its picture and types into it.
// vnc.mjs PEERS URL SCREENSHOT TEXT
import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [peers, url, screenshot, text] = process.argv.slice(2);
const { chromium } = createRequire(join(peers, "node", "package.json"))("playwright-core");
const profile = mkdtempSync(join(tmpdir(), "sp-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: "/usr/bin/chromium",
  ignoreHTTPSErrors: true,
  viewport: { width: 900, height: 700 },
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(message.text()));
  await page.goto(url);
  await page.waitForFunction(() => document.title === "connected", null, { timeout: 30_000 });
  // The share of pixels that are not black; the canvas is noVNC's own.
  await page.waitForFunction(() => {
    const canvas = document.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let lit = 0;
    for (let i = 0; i < data.length; i += 4) lit += data[i] + data[i + 1] + data[i + 2] > 30 ? 1 : 0;
    return lit > data.length / 4 / 20;
  }, null, { timeout: 30_000 });
  await page.mouse.click(200, 200);
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
  await page.screenshot({ path: screenshot });
  console.log("well");
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
