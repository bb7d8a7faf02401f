-- Requests for wrk: each has a text of ten words, as `text` of inputs.py makes it, one text a request.
--
--   ROUTE=/vectors FIELD=text START=0 wrk -t1 -c16 -d10s -s bench/short_texts.lua http://127.0.0.1:8080
--
-- START is the number of the first text. Texts are distinct within 8 million numbers.

local colours = {"red", "blue", "green", "yellow", "black", "white", "brown", "grey"}
local things = {"car", "dog", "cat", "house", "boat", "tree", "bird", "horse", "train", "chair", "cup",
                "book", "clock", "shoe", "hat", "flower"}
local places = {"beach", "street", "forest", "garden", "kitchen", "river", "bridge", "mountain"}
local times = {"morning", "evening", "night", "winter", "summer", "autumn", "spring", "rain"}
local looks = {"old", "new", "small", "big", "bright", "dark", "quiet", "busy"}
local order = {colours, things, places, times, looks, things, colours}
local odd = 5039393  -- spreads neighbouring numbers over all the words

local route, field = os.getenv("ROUTE") or "/vectors", os.getenv("FIELD") or "text"
local headers = {["Content-Type"] = "application/json"}
local number = tonumber(os.getenv("START") or "0")

local function text(n)
  n = n * odd
  local picked = {}
  for place, words in ipairs(order) do
    local index = n % #words
    n = (n - index) / #words
    picked[place] = words[index + 1]
  end
  local colour, thing, place, time, look, other, other_colour = unpack(picked)
  return string.format("a %s %s %s and a %s %s %s %s", look, colour, thing, other_colour, other, place, time)
end

function request()
  number = number + 1
  return wrk.format("POST", route, headers, string.format('{"%s": "%s"}', field, text(number)))
end

function done(summary, latency)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read
               + summary.errors.write + summary.errors.timeout
  print(string.format("%.1f a second, median %.2f ms, 95 %% within %.2f ms, %d failed",
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, failed))
end
