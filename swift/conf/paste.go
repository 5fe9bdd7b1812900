package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxUse bounds how many sections one section may lead to, by "use" and all other ways,
// each counted as often as it is come to: Python gives up a circle at about that depth.
const maxUse = 256

// App reads the section [app:NAME] as PasteDeploy reads it for Swift's servers: option
// names keep their case, [DEFAULT] wins over the section but for options written
// "set name = value", "get name = other" takes a global one, "use = name" and
// "use = config:file#name" bring in another section under this one, %(name)s is replaced,
// %(here)s is the file's folder, a bare "1%" stays. path may be a folder of *.conf files,
// like for Read. What "use = egg:..." names is not looked for. Swift: common/wsgi.py,
// appconfig.
func App(path, app string) (*Section, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	left := maxUse
	context, err := loadPaste(path, kindApp, app, nil, &left)
	if err != nil {
		return nil, err
	}
	return context.section(app, path), nil
}

// pasteKind says which prefixes a section's name may have: of each group, only the first
// prefix that fits is taken. PasteDeploy: loadwsgi, _App and _Filter.
type pasteKind struct {
	prefixes  [][]string
	protocols []string
}

var (
	kindApp = &pasteKind{
		[][]string{{"app", "application"}, {"composite", "composit"}, {"pipeline"}, {"filter-app"}},
		[]string{"paste.app_factory", "paste.composite_factory", "paste.composit_factory"},
	}
	// A filter may name one of two protocols, and the first one counts.
	kindFilter = &pasteKind{
		[][]string{{"filter"}},
		[]string{"paste.filter_factory", "paste.filter_app_factory"},
	}
)

// pasteFile is one parsed file. PasteDeploy: loadwsgi, ConfigLoader.
type pasteFile struct {
	path string
	ini  *INI
}

// pasteContext is what a section amounts to: global options, which [DEFAULT] gives and
// "set" changes, and those of its own.
type pasteContext struct {
	global, local map[string]string
	program       string  // what it names: "egg:swift#object"
	stages        []Stage // of a pipeline
}

// Stage is one program of a pipeline, with its options.
type Stage struct {
	*Section
	Program string // as "use" or "paste.filter_factory" names it: "egg:swift#recon"
}

// Pipeline reads what a server is made of, [pipeline:main] or a lone [app:main]: filters, and
// the app behind them. The rules are those of App. PasteDeploy: loadwsgi, loadapp.
func Pipeline(path string) ([]Stage, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	left := maxUse
	context, err := loadPaste(path, kindApp, "main", nil, &left)
	if err != nil {
		return nil, err
	}
	if context.stages == nil {
		return []Stage{context.stage("main", path)}, nil
	}
	return context.stages, nil
}

func (c *pasteContext) stage(name, path string) Stage { return Stage{c.section(name, path), c.program} }

// section holds the options of both kinds, global ones first.
func (c *pasteContext) section(name, path string) *Section {
	var items []Item
	for _, key := range slices.Sorted(maps.Keys(c.global)) {
		items = append(items, Item{key, c.global[key]})
	}
	for _, key := range slices.Sorted(maps.Keys(c.local)) {
		items = append(items, Item{key, c.local[key]})
	}
	return newSection(name, path, items)
}

func loadPaste(path string, kind *pasteKind, name string, global map[string]string, left *int) (*pasteContext, error) {
	f := &pasteFile{path: strip(path), ini: NewINI(Paste)}
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the conf file: %w", err)
	}
	here := filepath.Dir(f.path)
	if info.IsDir() {
		here = f.path
	}
	f.ini.defaults.set("here", here)
	f.ini.defaults.set("__file__", f.path)
	if info.IsDir() {
		_, err = readAll(f.ini, f.path)
	} else {
		var data []byte
		if data, err = readFile(f.path); err == nil {
			err = f.ini.Parse(f.path, data)
		}
	}
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return nil, fmt.Errorf("cannot read the conf file: %w", err)
	}
	if err != nil {
		return nil, err
	}
	// Globals of the file that refers to this one count only where this one has none.
	for _, key := range slices.Sorted(maps.Keys(global)) {
		if _, ok := f.ini.defaults.values[key]; !ok {
			f.ini.defaults.set(key, global[key])
		}
	}
	return f.context(kind, name, global, left)
}

// context reads one section. PasteDeploy: loadwsgi, ConfigLoader.get_context.
func (f *pasteFile) context(kind *pasteKind, name string, outer map[string]string, left *int) (*pasteContext, error) {
	if *left--; *left < 0 {
		return nil, fmt.Errorf("cannot read %s: more than %d sections lead to each other, the last one is %.80q", f.path, maxUse, name)
	}
	if scheme, rest, ok := scheme(name); ok {
		return f.elsewhere(kind, scheme, rest, outer, left)
	}
	own, err := f.find(kind, name)
	if err != nil {
		return nil, err
	}
	global, err := f.globals()
	if err != nil {
		return nil, err
	}
	inherited := maps.Clone(global)
	maps.Copy(global, outer)
	local, additions, borrowed := map[string]string{}, map[string]string{}, map[string]string{}
	for _, option := range f.ini.keys(own, false) {
		set, isSet := strings.CutPrefix(option, "set ")
		get, isGet := strings.CutPrefix(option, "get ")
		if _, ok := inherited[option]; ok && !isSet && !isGet {
			continue
		}
		value, _, err := f.ini.get(own, option)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f.path, err)
		}
		switch {
		case isSet:
			additions[strip(set)], global[strip(set)] = value, value
		case isGet:
			borrowed[strip(get)] = value
		default:
			local[option] = value
		}
	}
	for option, from := range borrowed {
		value, ok := global[from]
		if !ok {
			return nil, fmt.Errorf("cannot read %s: section [%s] gets %q from %q, which is not in [DEFAULT]", f.path, own.name, option, from)
		}
		local[option] = value
	}
	filterWith, filtered := local["filter-with"]
	delete(local, "filter-with")
	delete(local, "require")
	c, err := f.body(kind, own.name, local, global, additions, left)
	if err != nil || !filtered {
		return c, err
	}
	if _, err := f.context(kindFilter, filterWith, global, left); err != nil {
		return nil, err
	}
	return &pasteContext{global: global, local: local}, nil
}

// body reads what the section leads to, by the kind of its name.
func (f *pasteFile) body(kind *pasteKind, section string, local, global, additions map[string]string, left *int) (*pasteContext, error) {
	if strings.HasPrefix(section, "filter-app:") {
		next, ok := local["next"]
		if !ok {
			return nil, fmt.Errorf("cannot read %s: section [%s] has no \"next\"", f.path, section)
		}
		delete(local, "next")
		if _, err := f.context(kindApp, next, global, left); err != nil {
			return nil, err
		}
		if _, err := f.used(kindFilter, section, local, global, additions, left); err != nil {
			return nil, err
		}
		return &pasteContext{global: global, local: local}, nil
	}
	if !strings.HasPrefix(section, "pipeline:") {
		return f.used(kind, section, local, global, additions, left)
	}
	pipeline := strings.FieldsFunc(local["pipeline"], isSpace)
	delete(local, "pipeline")
	if len(pipeline) == 0 || len(local) > 0 {
		return nil, fmt.Errorf("cannot read %s: section [%s] must have \"pipeline\" and nothing else", f.path, section)
	}
	whole := &pasteContext{global: global, local: local}
	for i, name := range pipeline {
		kind := kindFilter
		if i == len(pipeline)-1 {
			kind = kindApp
		}
		c, err := f.context(kind, name, global, left)
		if err != nil {
			return nil, err
		}
		whole.stages = append(whole.stages, c.stage(name, f.path))
	}
	return whole, nil
}

// used follows "use", or makes sure that the section names its program itself.
func (f *pasteFile) used(kind *pasteKind, section string, local, global, additions map[string]string, left *int) (*pasteContext, error) {
	use, ok := local["use"]
	if !ok {
		var found []string
		for _, protocol := range kind.protocols {
			if _, ok := local[protocol]; ok {
				found = append(found, protocol)
			}
		}
		if kind == kindFilter && len(found) > 1 {
			found = found[:1]
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("cannot read %s: section [%s] must have one \"use\" or \"paste.app_factory\"", f.path, section)
		}
		program := local[found[0]]
		delete(local, found[0])
		return &pasteContext{global: global, local: local, program: program}, nil
	}
	delete(local, "use")
	c, err := f.context(kind, use, global, left)
	if err != nil {
		return nil, err
	}
	maps.Copy(c.global, additions)
	maps.Copy(c.local, local)
	c.global["__file__"] = global["__file__"]
	return c, nil
}

// scheme splits "egg:swift#object". PasteDeploy: loadwsgi, _Loader.absolute_name.
func scheme(name string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(name, ":")
	if !ok || scheme == "" {
		return "", "", false
	}
	for _, c := range []byte(scheme) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			return "", "", false
		}
	}
	return strings.ToLower(scheme), rest, true
}

// elsewhere reads what is not a section of this file. PasteDeploy: loadwsgi, loadcontext.
func (f *pasteFile) elsewhere(kind *pasteKind, scheme, rest string, global map[string]string, left *int) (*pasteContext, error) {
	switch scheme {
	case "egg", "call":
		// No program is looked for here, but an indented line after "use" is seen.
		if strings.ContainsFunc(rest, isSpace) {
			return nil, fmt.Errorf("cannot read %s: %.80q names no program", f.path, scheme+":"+rest)
		}
		return &pasteContext{global: maps.Clone(global), local: map[string]string{}, program: scheme + ":" + rest}, nil
	case "config", "config_dir":
		path, name, named := strings.Cut(rest, "#")
		if !named {
			name = "main"
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(f.path), path)
		}
		return loadPaste(path, kind, name, global, left)
	}
	return nil, fmt.Errorf("cannot read %s: %q is no way to name a program", f.path, scheme+":")
}

// globals are the options of [DEFAULT], interpolated among themselves; one that comes out
// empty stays as it was written. PasteDeploy: loadwsgi, NicerConfigParser.defaults.
func (f *pasteFile) globals() (map[string]string, error) {
	global := map[string]string{}
	for _, key := range f.ini.defaults.keys {
		value, _, err := f.ini.get(nil, key)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f.path, err)
		}
		if value == "" {
			value = f.ini.defaults.values[key]
		}
		global[key] = value
	}
	return global, nil
}

// find returns the one section of that kind and name. PasteDeploy: loadwsgi,
// ConfigLoader.find_config_section.
func (f *pasteFile) find(kind *pasteKind, name string) (*options, error) {
	var found []*options
	var wanted []string
	for _, group := range kind.prefixes {
		var inGroup []*options
		for _, prefix := range group {
			wanted = append(wanted, "["+prefix+":"+name+"]")
			if len(inGroup) > 0 {
				continue
			}
			for _, s := range f.ini.sections {
				if rest, ok := strings.CutPrefix(s.name, prefix+":"); ok && strip(rest) == name {
					inGroup = append(inGroup, s)
				}
			}
		}
		found = append(found, inGroup...)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("cannot find section %s in %s", strings.Join(wanted, " or "), f.path)
	}
	return nil, fmt.Errorf("cannot choose between [%s] and [%s] in %s", found[0].name, found[1].name, f.path)
}
