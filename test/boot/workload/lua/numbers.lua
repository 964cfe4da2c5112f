-- Numeric loops: integers in doubles, bit operations, arrays, floating point.
local bit = require("bit")

local function sieve(limit)
    local composite, count = {}, 0
    for i = 2, limit do
        if not composite[i] then
            count = count + 1
            for j = i * i, limit, i do composite[j] = true end
        end
    end
    return count
end

local function bits(rounds)
    local x, sum = 123456789, 0
    for i = 1, rounds do
        x = bit.bxor(x, bit.lshift(x, 13))
        x = bit.bxor(x, bit.rshift(x, 17))
        x = bit.bxor(x, bit.lshift(x, 5))
        sum = bit.tobit(sum + bit.rol(x, i) + bit.bswap(x) - bit.arshift(x, 3))
    end
    return sum
end

local function collatz(limit)
    local best, longest = 0, 0
    for start = 1, limit do
        local n, steps = start, 0
        while n ~= 1 do
            n = n % 2 == 0 and n / 2 or 3 * n + 1
            steps = steps + 1
        end
        if steps > longest then best, longest = start, steps end
    end
    return best, longest
end

local function mandelbrot(size)
    local sum = 0
    for row = 0, size - 1 do
        for column = 0, size - 1 do
            local cr, ci, r, i, n = 3 * column / size - 2, 2 * row / size - 1, 0, 0, 0
            while n < 60 and r * r + i * i < 4 do
                r, i, n = r * r - i * i + cr, 2 * r * i + ci, n + 1
            end
            sum = (sum * 31 + n) % 1000000007
        end
    end
    return sum
end

local function multiply(size)
    local a, b, trace = {}, {}, 0
    for i = 1, size do
        a[i], b[i] = {}, {}
        for j = 1, size do a[i][j], b[i][j] = i / j, (i * j) % 7 - 3 end
    end
    for i = 1, size do
        for j = 1, size do
            local sum = 0
            for k = 1, size do sum = sum + a[i][k] * b[k][j] end
            trace = trace + sum * (i == j and 1 or 1 / 1024)
        end
    end
    return trace
end

for round = 1, tonumber(arg[1]) do
    print("primes", sieve(20000 + round))
    print("bits", bits(20000 * round))
    print("collatz", collatz(1500 + round))
    print("mandelbrot", mandelbrot(40))
    print(string.format("matrix %.17g", multiply(30 + round)))
    print(string.format("roots %.17g %d %d", math.sqrt(round), math.floor(-round / 3), math.fmod(7, 4)))
end
