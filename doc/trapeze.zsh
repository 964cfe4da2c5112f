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

_trapeze_image() {
	local -a verbs format qcow2 backing
	verbs=('create:make an image' 'info:say what an image is' 'check:look for damage and leaks'
		'convert:copy to an image of another format' 'resize:change the disk'\''s size'
		'rebase:change the backing file')
	format=('(-f --format)'{-f,--format}'[format]:format:(raw qcow2)')
	qcow2=('--cluster-size[unit of allocation]:size:(512B 4K 64K 2M)'
		'--refcount-bits[width of reference counts]:bits:(1 2 4 8 16 32 64)'
		'--version[of qcow2]:version:(2 3)'
		'--lazy-refcounts[others may delay reference counts]')
	backing=('(-b --backing)'{-b,--backing}'[backing file]:file:_files'
		'(-F --backing-format)'{-F,--backing-format}'[its format]:format:(raw qcow2)')
	if ((CURRENT == 3)); then
		_describe verb verbs
		return
	fi
	local verb=$words[3]
	shift 2 words
	((CURRENT -= 2))
	case $verb in
	create) _arguments $format $backing $qcow2 ':image:_files' ':size:(1G 10G 100G)' ;;
	info) _arguments $format '--json[print JSON]' ':image:_files' ;;
	check) _arguments '(-r --repair)'{-r,--repair}'[give leaks back]' '--json[print JSON]' \
		':image:_files' ;;
	convert) _arguments $format '(-O --to)'{-O,--to}'[new format]:format:(raw qcow2)' $qcow2 \
		':image:_files' ':new image:_files' ;;
	debian) _arguments '--size[of the disk]:size:(2G 4G 20G)' '--packages[to install, too]:names:' \
		'--hostname[of the machine]:name:' '--ssh-key[public keys]:file:_files' \
		'--suite[release]:name:(bookworm trixie)' ':new image:_files' ;;
	resize) _arguments $format '--shrink[allow a smaller size]' ':image:_files' ':size:' ;;
	rebase) _arguments $backing '(-u --unsafe)'{-u,--unsafe}'[change the name only]' \
		':image:_files' ;;
	esac
}

_trapeze() {
	local -a verbs
	verbs=('run:run one machine in the foreground' 'image:make and check disk images'
		'engines:list the ways to execute guest code'
		'info:tell what this host offers' 'version:print the version' 'help:print a summary')
	if ((CURRENT == 2)); then
		_describe verb verbs
		return
	fi
	if [[ $words[2] == image ]]; then
		_trapeze_image
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
		'--console[virtio console]:where:_trapeze_serial' \
		'*--port[a named port of the virtio console]:name and where:' \
		'--image[the disk to boot from]:disk:_files' \
		'*--disk[a disk image]:disk:_files' \
		'--balloon[memory balloon]:size left to the guest:' \
		'--rng[a source of random numbers]' \
		'*--net[network card]:kind and keys:(user tap link)' \
		'*--share[shared directory]:path=DIR,tag=NAME:' \
		'--vsock[socket device]:path=PATH,cid=N:' \
		'--watchdog[watchdog]:action:(reset poweroff pause)' \
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
