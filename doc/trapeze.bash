# shellcheck shell=bash
# Completion of trapeze(1) for bash. The options come from the command's own help.

_trapeze_run_options() {
	"$1" run --help 2>/dev/null | sed -n 's/^  \(-., \)\{0,1\}\(--[a-z-]*\).*/\2/p'
}

_trapeze_image_verbs() {
	"$1" image --help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p'
}

_trapeze_image_options() {
	"$1" image "$2" --help 2>/dev/null | sed -n 's/^  \(-., \)\{0,1\}\(--[a-z-]*\).*/\2/p'
}

# What follows "trapeze image VERB": options after a dash, files otherwise.
_trapeze_image_words() {
	case $3 in
	--format | -f | --to | -O | --backing-format | -F) echo "raw qcow2" ;;
	--cluster-size) echo "512B 4K 64K 2M" ;;
	--refcount-bits) echo "1 2 4 8 16 32 64" ;;
	--version) echo "2 3" ;;
	--suite) echo "bookworm trixie" ;;
	*) [[ $4 != -* ]] || _trapeze_image_options "$1" "$2" ;;
	esac
}

_trapeze() {
	local command=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]}
	local previous=${COMP_WORDS[COMP_CWORD - 1]} words=

	if [ "$COMP_CWORD" -eq 1 ]; then
		words="run image engines info version help"
	elif [ "${COMP_WORDS[1]}" = run ]; then
		case $previous in
		--engine) words="auto $("$command" engines 2>/dev/null | cut -d ' ' -f 1)" ;;
		--check) words="interp" ;;
		--cpu) words="host x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4" ;;
		--irqchip) words="auto kernel split own" ;;
		--serial | --console) words="stdio file: unix: pty none" ;;
		--decompress) words="host guest" ;;
		--watchdog) words="reset poweroff pause" ;;
		--kernel | --initrd | --module | --image | --disk | --stats | --trace) ;; # files
		--append | --port | --net | --share | --vsock | --balloon | --memory | --vcpus | --timeout | --code-cache) return ;;
		*) words=$(_trapeze_run_options "$command") ;;
		esac
	elif [ "${COMP_WORDS[1]}" = image ] && [ "$COMP_CWORD" -eq 2 ]; then
		words=$(_trapeze_image_verbs "$command")
	elif [ "${COMP_WORDS[1]}" = image ]; then
		words=$(_trapeze_image_words "$command" "${COMP_WORDS[2]}" "$previous" "$word")
	fi
	if [ -n "$words" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
	else
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
	fi
}

complete -o filenames -F _trapeze trapeze
