// Small programs whose hot functions V8 compiles, and whose types then change. They print what the file
// "expected" has, on every machine.
"use strict";

function sieve(limit) {
	const composite = new Uint8Array(limit);
	let count = 0;
	for (let i = 2; i < limit; i++) {
		if (composite[i]) continue;
		count++;
		for (let j = 2 * i; j < limit; j += i) composite[j] = 1;
	}
	return count;
}

function integers(rounds) {
	let x = 123456789, sum = 0;
	for (let i = 1; i <= rounds; i++) {
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		sum = (sum + Math.imul(x, i) + (x % i | 0)) | 0;
	}
	return sum;
}

function floats(size) {
	let sum = 0;
	for (let row = 0; row < size; row++)
		for (let column = 0; column < size; column++) {
			const cr = 3 * column / size - 2, ci = 2 * row / size - 1;
			let r = 0, i = 0, n = 0;
			for (; n < 60 && r * r + i * i < 4; n++) [r, i] = [r * r - i * i + cr, 2 * r * i + ci];
			sum = (sum * 31 + n) % 1000000007;
		}
	return sum;
}

class Shape {
	constructor(side) { this.side = side; }
	area() { return this.side * this.side; }
}
class Circle extends Shape {
	area() { return super.area() * 3.25; }
}

function shapes(n) {
	let total = 0;
	for (let i = 0; i < n; i++) {
		// One class, then two, then an object of no class: the call is compiled anew.
		const shape = i < n / 2 ? new Shape(i) : i < n - 9 ? new Circle(i) : { area: () => "7" };
		total += Number(shape.area());
	}
	return total;
}

function* numbers(n) {
	for (let i = 0; i < n; i++) yield (yield i) || i * 2;
}

function text(n) {
	const words = new Map();
	let all = "";
	for (let i = 0; i < n; i++) all += ((i * 7919) % 97).toString(36) + " ";
	for (const [word] of all.matchAll(/[a-z]\d?/g)) words.set(word, (words.get(word) || 0) + 1);
	return JSON.stringify([...words].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 5));
}

function big(n) {
	let product = 1n;
	for (let i = 1n; i <= n; i++) product *= i;
	return product.toString();
}

// (func (export "f") (param i32) (result i32): the parameter's factorial, by recursion
const wasm = new Uint8Array([
	0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f, 3, 2, 1, 0, 7, 5, 1, 1, 0x66, 0, 0,
	10, 23, 1, 21, 0, 0x20, 0, 0x45, 4, 0x7f, 0x41, 1, 5, 0x20, 0, 0x41, 1, 0x6b, 0x10, 0, 0x20, 0,
	0x6c, 0x0b, 0x0b,
]);

for (let round = 1; round <= Number(process.argv[2]); round++) {
	console.log("primes", sieve(100000 + round));
	console.log("integers", integers(100000 * round));
	console.log("floats", floats(60 + round));
	console.log("shapes", shapes(20000));
	console.log("generator", [...numbers(500)].reduce((a, b) => (a * 31 + b) % 1000003));
	console.log("text", text(2000));
	console.log("big", big(40n + BigInt(round)));
	console.log("made", new Function("n", `let s = ${round}; for (; n; n--) s = (s * 7 + n) | 0; return s`)(50000));
	const { f } = new WebAssembly.Instance(new WebAssembly.Module(wasm)).exports;
	let sum = 0;
	for (let i = 0; i < 5000; i++) sum = (sum + f(i % 13)) | 0;
	console.log("wasm", sum, f(10));
	try {
		(function deep(n) { return n ? deep(n + 1) : 0; })(1);
	} catch (error) {
		console.log("stack", error.name);
	}
}
