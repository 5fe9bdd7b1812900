package real

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Python is Debian's interpreter, the only one that sees python3-swift.
const Python = "/usr/bin/python3"

// What the lab runs, and the Debian package that has it.
var needed = []struct{ pattern, pkg string }{
	{"/usr/bin/swift-account-server", "swift-account"},
	{"/usr/bin/swift-container-server", "swift-container"},
	{"/usr/bin/swift-object-server", "swift-object"},
	{"/usr/bin/swift-object-reconstructor", "swift-object"},
	{"/usr/bin/swift-object-auditor", "swift-object"},
	{"/usr/bin/swift-proxy-server", "swift-proxy"},
	{"/usr/lib/python3/dist-packages/swift/obj/server.py", "python3-swift"},
	{"/usr/lib/python3/dist-packages/pyeclib", "python3-pyeclib"},
	{"/usr/lib/*/liberasurecode.so.1", "liberasurecode1"},
	{"/usr/lib/*/libisal.so.2", "libisal2"},
	{"/usr/bin/memcached", "memcached"},
}

// CheckPackages says which of the Debian packages that the lab runs are missing.
func CheckPackages() error {
	var missing []string
	for _, n := range needed {
		found, err := filepath.Glob(n.pattern)
		if err != nil {
			return fmt.Errorf("cannot look for %s: %w", n.pattern, err)
		}
		if len(found) == 0 {
			missing = append(missing, fmt.Sprintf("%s (%s)", n.pkg, n.pattern))
		}
	}
	if _, err := exec.LookPath(Python); err != nil {
		missing = append(missing, "python3 ("+Python+")")
	}
	if len(missing) > 0 {
		return fmt.Errorf("the lab runs Swift from Debian's packages and misses: %s; `make deps` installs them",
			strings.Join(missing, ", "))
	}
	return nil
}
