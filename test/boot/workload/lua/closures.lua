-- Closures, coroutines, metatables, tail calls, errors: what traces have to leave by side exits.
local function counter(step)
    local value = 0
    return function(n)
        value = value + step * n
        return value
    end
end

local Vector = {}
Vector.__index = Vector
Vector.__add = function(a, b) return setmetatable({x = a.x + b.x, y = a.y + b.y}, Vector) end
Vector.__eq = function(a, b) return a.x == b.x and a.y == b.y end
function Vector:turn() return setmetatable({x = -self.y, y = self.x}, Vector) end

local function permutations(n)
    local items, count = {}, 0
    for i = 1, n do items[i] = i end
    local function permute(k)
        if k == 0 then coroutine.yield(items) end
        for i = 1, k do
            items[i], items[k] = items[k], items[i]
            permute(k - 1)
            items[i], items[k] = items[k], items[i]
        end
    end
    local hash = 0
    for p in coroutine.wrap(function() permute(n) end) do
        count = count + 1
        hash = (hash * 31 + p[1] * p[n]) % 1000003
    end
    return count, hash
end

local function fibonacci(n) return n < 2 and n or fibonacci(n - 1) + fibonacci(n - 2) end

local function loop(n, sum)
    if n == 0 then return sum end
    return loop(n - 1, (sum * 3 + n) % 1000003)
end

-- A loop whose types change when it is hot.
local function polymorphic(n)
    local sum, values = 0, {1, 2.5, "3", true, {4}, function(x) return x + 5 end}
    for i = 1, n do
        local value = i < n / 2 and i or values[i % #values + 1]
        local kind = type(value)
        if kind == "number" then sum = sum + value
        elseif kind == "string" then sum = sum + tonumber(value)
        elseif kind == "boolean" then sum = sum - 1
        elseif kind == "table" then sum = sum + value[1]
        else sum = value(sum) end
    end
    return sum
end

local function failures(n)
    local caught = 0
    for i = 1, n do
        local ok, what = pcall(function()
            if i % 3 == 0 then error({code = i}) end
            if i % 7 == 0 then return nil + i end
            return i
        end)
        caught = caught + (ok and 1 or type(what) == "table" and what.code or 1000)
    end
    return caught
end

for round = 1, tonumber(arg[1]) do
    local a, b = counter(2), counter(3)
    for i = 1, 3000 do if i % 2 == 0 then a(i) else b(i) end end
    print("counters", a(0), b(0))
    local v = setmetatable({x = 0, y = round}, Vector)
    for i = 1, 3000 do v = v + v:turn():turn() + setmetatable({x = i, y = -i}, Vector) end
    print("vectors", v.x, v.y, v == v:turn():turn():turn():turn())
    print("permutations", permutations(6))
    print("fibonacci", fibonacci(20))
    print("tail calls", loop(20000, round))
    print("polymorphic", polymorphic(6000))
    print("failures", failures(600))
end
