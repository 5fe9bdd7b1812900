package ring

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Device is one disk of the ring. IP may be an IPv4 or IPv6 address or a host name;
// ReplicationIP and ReplicationPort are never left out: they are IP and Port where the
// file has none. The name in Device is the operator's text, not yet fit to be joined to
// a path. Swift: common/ring/ring.py, Ring._reload.
type Device struct {
	ID, Region, Zone int
	Weight           float64
	IP               string
	Port             int
	ReplicationIP    string
	ReplicationPort  int
	Device, Meta     string
}

// defaultRegion is the region of devices from before there were regions.
const defaultRegion = 1

// parseDevice reads one member of the list "devs": nil for null, a removed device.
// Ring.Devs is indexed by the ids in the rows, thus id must be the place in the list.
func parseDevice(raw json.RawMessage, id int) (*Device, error) {
	var fields object
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("device %d is not a JSON object: %w", id, err)
	}
	if fields == nil {
		return nil, nil
	}
	d := &Device{Region: defaultRegion}
	var errs [10]error
	d.ID, errs[0] = fields.integer("id", nil, math.MinInt, math.MaxInt)
	d.Region, errs[1] = fields.integer("region", &d.Region, math.MinInt, math.MaxInt)
	d.Zone, errs[2] = fields.integer("zone", nil, math.MinInt, math.MaxInt)
	d.IP, errs[3] = fields.text("ip", nil)
	d.Port, errs[4] = fields.integer("port", &d.Port, 0, math.MaxUint16)
	d.ReplicationIP, errs[5] = fields.text("replication_ip", &d.IP)
	d.ReplicationPort, errs[6] = fields.integer("replication_port", &d.Port, 0, math.MaxUint16)
	d.Weight, errs[7] = fields.number("weight", 0)
	d.Device, errs[8] = fields.text("device", &d.Device)
	d.Meta, errs[9] = fields.text("meta", &d.Meta)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("device %d: %w", id, err)
	}
	if d.ID != id {
		return nil, fmt.Errorf("device %d of the list says that its id is %d", id, d.ID)
	}
	return d, nil
}

// object is a JSON object with its keys as they are written: decoding into a struct
// would take "Devs" for "devs", which Swift does not.
type object map[string]json.RawMessage

// get is the value of a key; a null counts as left out.
func (o object) get(key string) (json.RawMessage, bool) {
	raw, ok := o[key]
	return raw, ok && string(raw) != "null"
}

// integer reads a whole number in min..max, however it is written (6200, 6200.0,
// 6.2e3). A key that is left out is *def, or an error where def is nil.
func (o object) integer(key string, def *int, min, max int) (int, error) {
	raw, ok := o.get(key)
	if !ok {
		if def == nil {
			return 0, fmt.Errorf("%s is missing", key)
		}
		return *def, nil
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		// Beyond 2^53 a float64 no longer tells which whole number was meant.
		f, err := strconv.ParseFloat(string(raw), 64)
		if !isNumber(raw) || err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return 0, fmt.Errorf("%s is not a whole number: %.40s", key, raw)
		}
		n = int(f)
	}
	if n < min || n > max {
		return 0, fmt.Errorf("%s is not in %d..%d: %.40s", key, min, max, raw)
	}
	return n, nil
}

// number reads a finite number; a key that is left out is def.
func (o object) number(key string, def float64) (float64, error) {
	raw, ok := o.get(key)
	if !ok {
		return def, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if !isNumber(raw) || err != nil {
		return 0, fmt.Errorf("%s is not a number: %.40s", key, raw)
	}
	return f, nil
}

// text reads a string. A key that is left out is *def, or an error where def is nil.
func (o object) text(key string, def *string) (string, error) {
	raw, ok := o.get(key)
	if !ok {
		if def == nil {
			return "", fmt.Errorf("%s is missing", key)
		}
		return *def, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%s is not a string: %.40s", key, raw)
	}
	return s, nil
}

// isNumber tells a JSON number from other valid JSON by how it starts.
func isNumber(raw json.RawMessage) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0]-'0' <= 9)
}
