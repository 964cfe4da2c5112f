#compdef trapeze
# Completion of trapeze(1) for zsh.

_trapeze_engines() {
	local -a engines
	engines=('auto:the fastest that runs here' ${(f)"$($words[1] engines 2>/dev/null | sed 's/  */:/')"})
	_describe engine engines
}

_trapeze_serial() {
	_alternative \
		'where:where:((stdio\:"standard input and output" pty\:pseudoterminal none\:nothing))' \
		'path:path:(file\: unix\:)'
}

_trapeze() {
	local -a verbs
	verbs=('run:run one machine in the foreground' 'engines:list the ways to execute guest code'
		'info:tell what this host offers' 'version:print the version' 'help:print a summary')
	if ((CURRENT == 2)); then
		_describe verb verbs
		return
	fi
	[[ $words[2] == run ]] || return 1
	_arguments \
		'--kernel[what to boot]:kernel:_files' \
		'--initrd[initial RAM disk]:file:_files' \
		'--append[kernel command line]:text:' \
		'--memory[guest RAM]:size:(128M 512M 2G 6G)' \
		'--vcpus[virtual CPUs]:number:(1 2 4 8 16)' \
		'--engine[how to execute guest code]:engine:_trapeze_engines' \
		'--cpu[what CPUID shows]:model:(host x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4)' \
		'--irqchip[where interrupt controllers are]:where:(auto kernel split own)' \
		'--code-cache[room for translated code]:size:(16M 64M 256M)' \
		'--trace[write translated code]:file:_files' \
		'--perf-map[name translated code for perf]' \
		'--check[compare translated code with an engine]:engine:(interp)' \
		'--serial[serial port]:where:_trapeze_serial' \
		'*--module[a multiboot module]:file:_files' \
		'--testdev[devices of pc-testdev]' \
		'--decompress[who unpacks a bzImage]:who:(host guest)' \
		'--exit-on-reboot[end when the guest reboots]' \
		'--timeout[end after this time]:seconds:' \
		'--stats[write statistics]:file:_files' \
		'(-v --verbose)'{-v,--verbose}'[say more]' \
		'(-h --help)'{-h,--help}'[print a summary]'
}

_trapeze "$@"
