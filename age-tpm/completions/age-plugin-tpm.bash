# Completion of age-plugin-tpm for bash.
_age_plugin_tpm() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -o | --output | --log-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --tcti)
            mapfile -t COMPREPLY < <(compgen -W "/dev/tpmrm0 swtpm:path= swtpm:host=" -- "$cur")
            return
            ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "-g --generate -p --pin -y --convert -l --list \
            -o --output --tag-recipient --tpm-recipient --tcti --log-file \
            -h --help -v --version" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -o filenames -F _age_plugin_tpm age-plugin-tpm
