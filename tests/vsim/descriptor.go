package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// descriptor is the text file of a virtual disk: "Virtual Disk Format 5.0", chapter "The Text Descriptor".
// Each disk here has one extent: flat for a base disk, COWD for a delta.
type descriptor struct {
	cid, parentCID string
	createType     string
	parentHint     string
	sectors        int64
	extentKind     string
	extentFile     string
	uuid           string // "6000C29x-....", as vSphere reports it; the file spells it in bytes
}

const noParent = "ffffffff"

func newCID() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	b[0] &= 0x7f // ffffffff is "no parent", and so must not come up
	return hex.EncodeToString(b[:])
}

// newDiskUUID makes one as vSphere does for SCSI disks: VMware's prefix 6000C29, the rest random.
func newDiskUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[0], b[1], b[2], b[3] = 0x60, 0x00, 0xc2, 0x90|b[3]&0x0f
	return formatDiskUUID(b[:])
}

func formatDiskUUID(b []byte) string {
	return fmt.Sprintf("%X-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// ddbUUID spells a disk UUID as the disk database does: "60 00 C2 9x xx xx xx xx-xx xx xx xx xx xx xx xx".
func ddbUUID(uuid string) string {
	raw, _ := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if len(raw) != 16 {
		return ""
	}
	return fmt.Sprintf("% x-% x", raw[:8], raw[8:])
}

func parseDDBUUID(text string) string {
	raw, err := hex.DecodeString(strings.NewReplacer(" ", "", "-", "").Replace(text))
	if err != nil || len(raw) != 16 {
		return ""
	}
	return formatDiskUUID(raw)
}

func (d *descriptor) write(file string) error {
	var out strings.Builder
	fmt.Fprintf(&out, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%s\nparentCID=%s\ncreateType=\"%s\"\n",
		d.cid, d.parentCID, d.createType)
	if d.parentHint != "" {
		fmt.Fprintf(&out, "parentFileNameHint=\"%s\"\n", d.parentHint)
	}
	fmt.Fprintf(&out, "\n# Extent description\nRW %d %s \"%s\"\n\n# The Disk Data Base\n#DDB\n\n", d.sectors, d.extentKind, d.extentFile)
	if d.parentHint == "" {
		fmt.Fprintf(&out, "ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"%d\"\nddb.geometry.heads = \"255\"\n"+
			"ddb.geometry.sectors = \"63\"\nddb.thinProvisioned = \"1\"\nddb.uuid = \"%s\"\nddb.virtualHWVersion = \"14\"\n",
			d.sectors/(255*63), ddbUUID(d.uuid))
	}
	fmt.Fprintf(&out, "ddb.longContentID = \"%s%s%s%s\"\n", newCID(), newCID(), newCID(), d.cid)
	temporary := file + "~" // a reader sees the old text or the new, never half of it
	if err := os.WriteFile(temporary, []byte(out.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}

func readDescriptor(file string) (*descriptor, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := &descriptor{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		d.line(strings.TrimSpace(lines.Text()))
	}
	if d.createType == "" || d.extentFile == "" {
		return nil, errors.New(file + ": not a disk descriptor with an extent")
	}
	return d, nil
}

func (d *descriptor) line(text string) {
	if fields := strings.Fields(text); len(fields) >= 4 && (fields[0] == "RW" || fields[0] == "RDONLY") {
		d.sectors, _ = strconv.ParseInt(fields[1], 10, 64)
		d.extentKind = fields[2]
		if parts := strings.Split(text, `"`); len(parts) > 1 {
			d.extentFile = parts[1]
		}
		return
	}
	key, value, found := strings.Cut(text, "=")
	if !found {
		return
	}
	value = strings.Trim(strings.TrimSpace(value), `"`)
	switch strings.TrimSpace(key) {
	case "CID":
		d.cid = value
	case "parentCID":
		d.parentCID = value
	case "createType":
		d.createType = value
	case "parentFileNameHint":
		d.parentHint = value
	case "ddb.uuid":
		d.uuid = parseDDBUUID(value)
	}
}

func (d *descriptor) isDelta() bool { return d.createType == "vmfsSparse" }

// extentPath is the file of the one extent, beside its descriptor.
func (d *descriptor) extentPath(file string) string {
	return filepath.Join(filepath.Dir(file), d.extentFile)
}
